#!/bin/sh
# Measure everything that docs/results.md publishes:
#
#     sh docs/results/measure.sh [GROUP...]    (make results: all groups, then docs/results/record.sh)
#
# RAW=DIR: in place of runs/results. SEEDS=0-2: of logistic, clocks, headline, findings and link-rates. TASKS=digits: of
# headline and headline-rivals. JOBS=2: as many suites of findings at once as that, in place of one for each core.
#
# A group leaves its traces and samples in runs/results/GROUP; record.sh makes the small files of docs/results from
# them. What lay there before goes to runs/results/GROUP.before. All groups together take about two hours on 2 cores.
# Nothing else should run meanwhile. The link groups need root, for network namespaces; logistic, demo and headline need
# mushrooms.libsvm in QAFEL_DATA_DIR.
#
# chaos runs only when it is named: it takes two hours, and starts its own mpirun. So does large-message, for its memory.
# headline, headline-rivals, headline-causes, findings, grids and codec-error run only when they are named: headline and
# grids take hours. small is what make findings SIZE=small measures, into a RAW of its own.
# They count, on the virtual clock, and time nothing: other work on the machine changes none of their numbers. link-rates
# runs only when it is named, too: a quarter of an hour.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PWD/.venv/bin:$PATH
set -a
. jobs/local.env
set +a
raw=${RAW:-runs/results}

GROUPS_IN_ORDER="demo timeline logistic clocks resnet18 codec codec-peers codec-large server p2p ingest overlap tracing waiting \
progress progress-libraries many-ranks scaling broadcast broadcast-hosts virtual replay sizes startup checkpoint shared-data \
link-cnn-100mbit link-cnn-1gbit link-resnet18-100mbit link-resnet18-1gbit far-cnn far-resnet18 peers analysis"

hosts() { # RANKS OPTION... -- COMMAND...: a host a rank, joined by links of the given rate and delay
    ranks=$1
    shift
    python -m tests.system.namespaces --hosts "$ranks" -n "$ranks" "$@" </dev/null
}

repeat() { # COUNT COMMAND...: COUNT launches; each finds its number in $launch
    count=$1
    shift
    for launch in $(seq "$count"); do "$@"; done
}

# --- learning ------------------------------------------------------------------------------------------------

demo() {
    sh jobs/demo.sh # leaves its traces in runs/demo
}

timeline() {
    mpirun -n 3 qafel-mpi run digits --set task.hidden=8192 --set client.local_steps=1 --set client.batch_size=8 \
        --set client.learning_rate=0.005 --set server.buffer_size=4 --set stop.accuracy=1.0 --set stop.uploads=300 \
        --set evaluation.every_steps=1000 --out $raw/timeline/run.h5
}

logistic() {
    qafel-mpi suite mushrooms-qsgd --seeds ${SEEDS:-0-4} --out $raw/logistic/qsgd
    qafel-mpi suite mushrooms-topk --seeds ${SEEDS:-0-4} --out $raw/logistic/topk
    qafel-mpi suite mushrooms-eden --seeds ${SEEDS:-0-4} --out $raw/logistic/eden
}

clocks() {
    mpirun -n 4 qafel-mpi suite clocks --seeds ${SEEDS:-0-19} --out $raw/clocks/digits
    mpirun -n 4 qafel-mpi suite clocks-fashion-mnist --seeds ${SEEDS:-0-19} --out $raw/clocks/fashion-mnist
}

resnet18() {
    mpirun -n 3 qafel-mpi suite resnet18 --seeds 0 --out $raw/resnet18
}

headline() { # four tasks, one core each; a suite that was cut short goes on where it stopped if you call it by hand
    for task in ${TASKS:-digits mushrooms text fashion-mnist}; do
        qafel-mpi suite headline-$task --seeds ${SEEDS:-0-4} --out $raw/headline/$task
    done
}

headline_causes() { # 30 server steps each
    qafel-mpi suite headline-text-causes --seeds ${SEEDS:-0} --out $raw/headline-causes
}

headline_rivals() { # what the first record of a task lacks, and FedBuff beside it; hours, too. Runs of before stay
    for task in ${TASKS:-text fashion-mnist}; do
        lacking=$(python -c "from docs.render.headline import unrun
print(*('--variant ' + one for one in unrun('$task', ['headline-$task'])))")
        [ -z "$lacking" ] || qafel-mpi suite headline-$task --seeds ${SEEDS:-0-4} --variant fedbuff $lacking \
            --out $raw/headline-rivals/$task
    done
}

findings() { # docs/findings.md shows them
    seeds=${SEEDS:-0-4}
    suites_at_once $raw/findings "staleness-sweep $seeds" "digits-grid $seeds" "noniid-sweep $seeds" \
        "heterogeneous-speeds $seeds" "tradeoff ${SEEDS:-0-9}" "cross-term ${SEEDS:-0-23}" "buffer-sweep $seeds" \
        "mushrooms-concurrency $seeds" "precision-sweep $seeds" "biased-server $seeds" "hidden-ablation $seeds" \
        "hidden-sync $seeds" "mushrooms-grid $seeds" "noniid-text $seeds"
}

grids() { # of the two larger models: 100 runs of one to two minutes of a core each
    suites_at_once $raw/grids "fashion-mnist-grid ${SEEDS:-0-4}" "stdlib-text-grid ${SEEDS:-0-4}"
}

# Of every section of docs/findings.md, small: two or three seeds, the settings that its statements need, the larger
# models to targets that are reached early. record.sh small makes the records, and docs.render.again says what turned.
# The longest suites come first. All in all it takes about 15 minutes on two idle cores.
small() {
    mpirun -n 4 qafel-mpi suite clocks --seeds 0-2 --out $raw/clocks/digits # alone: clients keep their own pace
    if [ "$(id -u)" = 0 ] && ip netns >/dev/null 2>&1; then
        SEEDS=0 RATES="300mbit 100mbit 30mbit 10mbit 3mbit" link_rates
    else
        echo "Links of many rates: left out, because namespaces for hosts need root and the command ip"
    fi
    cnn="--set stop.accuracy=0.55 --set evaluation.every_steps=2 --set evaluation.examples=500"
    text="--set stop.loss=3.2"
    grid="--variant fedbuff --variant client4-server4 --variant client2-server2"
    suites_at_once $raw \
        "headline/fashion-mnist=headline-fashion-mnist 0-1 --variant fedbuff --variant qsgd4 --variant eden1 $cnn" \
        "headline/text=headline-text 0-1 --variant fedbuff --variant qsgd4 --variant eden2-down4 $text" \
        "grids/fashion-mnist-grid=fashion-mnist-grid 0-1 $grid $cnn" \
        "grids/stdlib-text-grid=stdlib-text-grid 0-1 $grid $text" \
        "findings/heterogeneous-speeds=heterogeneous-speeds 0-2$(variants qafel-alike fedbuff-alike qafel-spread0_5 \
            fedbuff-spread0_5 qafel-spread1 fedbuff-spread1 qafel-spread2 fedbuff-spread2 qafel-apart-constant \
            qafel-labels-constant qafel-labels-polynomial qafel-labels-rate fedbuff-labels-constant)" \
        "findings/staleness-sweep=staleness-sweep 0-2$(variants exact-fresh exact-constant10 exact-constant20 \
            exact-constant50 exact-uniform20 2bit-fresh 2bit-constant10 2bit-constant20 2bit-constant50 2bit-uniform20)" \
        "findings/cross-term=cross-term 0-2" \
        "findings/noniid-text=noniid-text 0-1 --variant fedbuff-natural --variant qafel-natural $text" \
        "findings/tradeoff=tradeoff 0-2" \
        "logistic/qsgd=mushrooms-qsgd 0-1" \
        "headline/digits=headline-digits 0-2$(variants fedbuff qsgd4 eden1 naive8 ca2fl fadas decoupled \
            ca2fl-eden1 fadas-eden1 decoupled-eden2 decoupled-eden1)" \
        "logistic/topk=mushrooms-topk 0-1 --variant qafel --variant naive" \
        "logistic/eden=mushrooms-eden 0-1 --variant qafel --variant naive" \
        "findings/noniid-sweep=noniid-sweep 0-1" \
        "findings/hidden-ablation=hidden-ablation 0-2$(variants hidden4 direct4 hidden8 direct8 hidden-eden2 \
            direct-eden2 hidden-topk25 direct-topk25)" \
        "findings/buffer-sweep=buffer-sweep 0-2$(variants K1 K10 K50 K1-unweighted K10-unweighted K50-unweighted)" \
        "findings/precision-sweep=precision-sweep 0-2$(variants both2 both3 both4 both6 both8 both12 both16 fedbuff)" \
        "findings/mushrooms-grid=mushrooms-grid 0-1" \
        "findings/digits-grid=digits-grid 0-1" \
        "findings/biased-server=biased-server 0-1$(variants fedbuff qsgd2 eden2 topk2 eden1 topk1 qsgd2-naive topk1-naive \
            qsgd2-ef topk1-ef slow-fedbuff slow-eden1 slow-topk1)" \
        "findings/mushrooms-concurrency=mushrooms-concurrency 0-2" \
        "findings/hidden-sync=hidden-sync 0-2"
}

variants() { # NAME...: as options of a suite
    printf ' --variant %s' "$@"
}

suites_at_once() { # FOLDER "[FOLDER=]NAME SEEDS [OPTION...]"...: one for each core (JOBS=2: two); says when one ends
    folder=$1
    shift
    printf '%s\n' "$@" | xargs -P ${JOBS:-$(nproc)} -L 1 sh -c '
        runs=$0/${1%=*} name=${1#*=} seeds=$2
        shift 2
        mkdir -p $runs
        echo "$(date +%T) suite $name, seeds $seeds: begins; its runs are in $runs.log"
        qafel-mpi suite $name --seeds $seeds "$@" --out $runs 2>$runs.log || { tail -n 5 $runs.log; exit 1; }
        echo "$(date +%T) suite $name: done, $(ls $runs/*.h5 | wc -l) runs"' $folder
}

# A round is a seed: the free link twice and eleven rates, in an order that is not the rates', so that a drift of the
# machine is none of speed over rate. Odd rounds go the other way round. Some 13 minutes for five rounds.
LINK_RATES="free 30mbit 500mbit 3mbit 100mbit 1gbit free-again 10mbit 200mbit 20mbit 300mbit 5mbit 50mbit"

link_rates() {
    for seed in $(each_seed ${SEEDS:-0-4}); do
        order=$LINK_RATES
        [ $((seed % 2)) = 0 ] || order=$(echo $LINK_RATES | tr ' ' '\n' | tac)
        for rate in $order; do link_rate $rate $seed; done
    done
}

link_rate() { # RATE SEED: without FedBuff where two seconds are too short for two of its steps
    case $1 in free*) shaped= ;; *) shaped="--rate $1" ;; esac
    case $1 in 3mbit | 5mbit | 10mbit) variants="--variant qsgd4 --variant eden1" ;; *) variants= ;; esac
    hosts 4 $shaped -- qafel-mpi suite link-rates --seeds $2 $variants --out $raw/link-rates/$1
}

each_seed() { # 2-4 or 3
    seq ${1%-*} ${1#*-}
}

# --- codecs --------------------------------------------------------------------------------------------------

codec() {
    repeat 3 codec_once
    bench="qafel-mpi bench codec --device cpu"
    $bench --codec qsgd --bits 2,3,8 --d 29282,1000000,11000000 --seconds 0.2 --json $raw/codec/widths.json
    $bench --codec qsgd,eden,fp4,lattice --bits 1,2,4 --d 29282,11000000 --seconds 0.3 --json $raw/codec/others.json
    $bench --codec fixed --bits 2,4,8 --d 29282,11000000 --seconds 0.3 --json $raw/codec/sums.json
    $bench --codec qsgd --bits 4 --threads 2 --d 1000000,11000000 --seconds 0.3 --json $raw/codec/threads.json
    $bench --codec identity --d 29282,1000000,11000000 --seconds 0.3 --json $raw/codec/identity.json
    $bench --codec qsgd --bits 4 --d 29282 --busy-neighbour --seconds 0.6 --json $raw/codec/neighbour.json
}

codec_once() {
    qafel-mpi bench codec --device cpu --codec qsgd --bits 4 --d 29282,1000000,11000000 --seconds 0.6 \
        --json $raw/codec/qsgd4-$launch.json
}

codec_peers() { # other libraries do not belong to the environment: a folder of their own
    [ -d runs/peers ] || python -m pip install --quiet --no-deps --target runs/peers bitsandbytes torchao
    for d in 29282 1000000 11000000; do
        PYTHONPATH=runs/peers qafel-mpi bench codec --device cpu --codec qsgd,affine --bits 2,4,8 --d $d --seconds 0.05 \
            --against numpy,torch,bitsandbytes,torchao --json $raw/codec-peers/$d.json
    done
}

codec_large() {
    qafel-mpi bench codec --device cpu --codec qsgd --bits 4 --d 110000000 --seconds 0.2 --against torch \
        --json $raw/codec-large/110000000.json
}

server() {
    qafel-mpi bench server --algorithm qafel,fedbuff,fadas --d 29282,1000000,11689512 --seconds 2 \
        --json $raw/server/sizes.json
    qafel-mpi bench server --algorithm qafel --set uplink.codec=eden --set downlink.codec=eden --d 29282,11689512 \
        --seconds 2 --json $raw/server/eden.json
    exact='.rules=[{max_rank=1,codec="identity"}]' # norms and biases
    for codec in qsgd eden; do
        qafel-mpi bench server --algorithm qafel --set uplink.codec=$codec --set downlink.codec=$codec \
            --set "uplink$exact" --set "downlink$exact" --d 29282,11689512 --seconds 2 --json $raw/server/rules-$codec.json
    done
    qafel-mpi bench server --algorithm qafel --d 11689512 --buffer 1,10 --threads 2 --seconds 2 \
        --json $raw/server/threads.json
    python docs/results/server_step.py bbaa444 $raw/server/older.json # in turns with the step as it was
}

codec_error() { # record.sh replays this run, and those of FedBuff that headline leaves
    qafel-mpi run resnet18 --set algorithm=fedbuff --set clock.kind=virtual --set server.buffer_size=10 \
        --set stop.uploads=100 --set evaluation.every_steps=10 --out $raw/codec-error/resnet18.h5
}

# --- transport -----------------------------------------------------------------------------------------------

two="mpirun --bind-to none -n 2 qafel-mpi bench"

p2p() {
    repeat 5 p2p_once
}

p2p_once() {
    $two p2p --from 16384 --to 16384 --seconds 1 --json $raw/p2p/16k-$launch.json
    $two p2p --from 4194304 --to 4194304 --seconds 1 --json $raw/p2p/4M-$launch.json
}

ingest() {
    repeat 9 ingest_once
}

ingest_once() {
    $two ingest --bytes 15000,4194304 --json $raw/ingest/$launch.json
}

overlap() {
    repeat 2 overlap_once
}

overlap_once() {
    $two overlap --json $raw/overlap/$launch.json
}

tracing() {
    $two tracing --json $raw/tracing/tracing.json
}

waiting() {
    $two backoff --json $raw/waiting/yields.json
    OMPI_MCA_mpi_yield_when_idle=0 $two backoff --json $raw/waiting/polls.json
}

progress() {
    mpirun -n 3 qafel-mpi suite progress --seeds 0-4 --out $raw/progress
}

progress_libraries() { # MPICH and Intel MPI do not belong to the environment: a folder each, as docs/clusters.md has it
    bench="qafel-mpi bench progress --bytes 15000,262144,4194304,46758112"
    mpirun -n 2 $bench --json $raw/progress-libraries/openmpi.json
    for library in mpich impi-rt; do
        mpi=$PWD/runs/mpi/$library
        [ -d $mpi ] || python -m pip install --quiet --ignore-installed --prefix $mpi $library
        PATH=$mpi/bin:$PATH MPI4PY_LIBMPI=$mpi/lib/libmpi.so.12 mpirun -n 2 $bench \
            --json $raw/progress-libraries/$library.json
    done
}

many_ranks() {
    mpirun -n 32 qafel-mpi run digits --set stop.seconds=60 --set stop.accuracy=1.0 --set stop.uploads=100000000 \
        --set server.buffer_size=31 --set evaluation.every_steps=20 --out $raw/many-ranks/run.h5
}

scaling() {
    mpirun -n 32 qafel-mpi suite strong-scaling --out $raw/scaling/strong
    mpirun -n 32 qafel-mpi suite weak-scaling --out $raw/scaling/weak
}

broadcast() {
    $two p2p --seconds 0.3 --json $raw/broadcast/p2p.json
    for ranks in 2 4 8 16; do
        mpirun -n $ranks qafel-mpi bench broadcast --bytes 15000,262144,5936084 --seconds 1 \
            --json $raw/broadcast/broadcast-$ranks.json
    done
}

broadcast_hosts() {
    hosts 8 --rate 250mbit -- qafel-mpi bench broadcast --bytes 5936084 --seconds 0.5 \
        --json $raw/broadcast-hosts/250mbit.json
}

# --- the virtual clock, sizes ---------------------------------------------------------------------------------

virtual() {
    qafel-mpi bench virtual --only overhead --seconds 20 --json $raw/virtual/overhead.json
    qafel-mpi bench virtual --only memory --json $raw/virtual/memory.json
    mpirun -n 3 qafel-mpi bench virtual --only speed-up --seconds 20 --json $raw/virtual/speed-up.json
    repeat 3 virtual_once
    qafel-mpi run mushrooms-qsgd --set stop.steps=100000 --set evaluation.every_steps=1000 \
        --out $raw/virtual/million.h5
}

replay() {
    repeat 5 digests_once # how fast memory is differs from minute to minute
    qafel-mpi bench virtual --only replay --seconds 20 --json $raw/replay/replay.json
}

digests_once() {
    $two tracing --json $raw/replay/digests-$launch.json
}

virtual_once() {
    qafel-mpi run mushrooms-qsgd --set stop.steps=4000 --set evaluation.every_steps=4000 \
        --out $raw/virtual/logistic-$launch.h5
}

sizes() {
    mpirun -n 3 qafel-mpi bench sizes --algorithm qafel --json $raw/sizes/qafel.json
    mpirun -n 3 qafel-mpi bench sizes --algorithm fedbuff --json $raw/sizes/fedbuff.json
}

large_message() { # above 2^31 - 1 bytes; 10 to 17 GB of memory, two ranks together, and a minute or two each
    for part in upload fanout tree ibcast; do
        mpirun -n 2 python -m docs.results.large_message $part 600e6 $raw/large-message/$part.json
    done
}

startup() { # 16 ranks, in turns with the start as it was; ten minutes on 2 cores
    python -m docs.results.startup_turns bbaa444 $raw/startup/turns.json
    mpirun -n 16 qafel-mpi bench startup --json $raw/startup/phases.json
}

checkpoint() {
    mpirun -n 2 qafel-mpi bench checkpoint --json $raw/checkpoint/checkpoint.json
}

chaos() { # the paper's CNN on made images of CelebA's shape, evaluated at its end alone: nothing may end it before
    qafel-mpi bench chaos --minutes 30 --ranks 8 --every 20 --json $raw/chaos/digits.json
    qafel-mpi bench chaos celeba --minutes 30 --ranks 8 --every 20 --json $raw/chaos/cnn.json \
        --set task.dataset=synthetic --set task.model=cnn --set task.partition.kind=iid --set "task.shape=[3, 32, 32]" \
        --set task.classes=2 --set task.examples=2000 --set task.clients=100 --set client.local_steps=1 \
        --set client.batch_size=21 --set client.pause_seconds=0.25 --set evaluation.examples=32 \
        --set evaluation.every_steps=1000000
}

shared_data() {
    mpirun -n 8 qafel-mpi bench data --megabytes 500 --json $raw/shared-data/500mb.json
}

# --- other frameworks ----------------------------------------------------------------------------------------

peers() { # some 40 minutes. Makes an environment for each where there is none; fewer samples of those that take long
    qafel-mpi bench peers --install
    qafel-mpi bench peers --peer pfl --json $raw/peers/pfl.json
    qafel-mpi bench peers --peer flower --algorithm fedavg --samples 2 --seconds 1 --json $raw/peers/flower.json
    qafel-mpi bench peers --peer appfl --algorithm fedavg,fedbuff --cohort 10 --samples 1 --seconds 1 \
        --json $raw/peers/appfl.json
    qafel-mpi bench peers --peer flsim --algorithm fedavg,fedbuff --samples 2 --seconds 1 --json $raw/peers/flsim.json
}

# --- slow links ----------------------------------------------------------------------------------------------

link_cnn_100mbit() {
    hosts 4 --rate 100mbit -- qafel-mpi suite link-cnn --seeds 0-4 --out $raw/link-cnn-100mbit
}

link_cnn_1gbit() {
    hosts 4 --rate 1gbit -- qafel-mpi suite link-cnn --seeds 0-4 --out $raw/link-cnn-1gbit
}

link_resnet18_100mbit() {
    hosts 4 --rate 100mbit -- qafel-mpi suite link-resnet18 --seeds 0-1 --out $raw/link-resnet18-100mbit
}

link_resnet18_1gbit() {
    hosts 4 --rate 1gbit -- qafel-mpi suite link-resnet18 --seeds 0-4 --out $raw/link-resnet18-1gbit
}

far_cnn() {
    hosts 4 --rate 100mbit --delay-ms 10 -- qafel-mpi suite link-cnn --seeds 0-4 --out $raw/far-cnn
}

far_resnet18() {
    hosts 4 --rate 100mbit --delay-ms 10 -- qafel-mpi suite link-resnet18 --seeds 0-1 --out $raw/far-resnet18
}

# --- the analysis of a long run -------------------------------------------------------------------------------

analysis() {
    python docs/results/analysis_cost.py 10000000 $raw/analysis/analysis.json
}

for group in ${*:-$GROUPS_IN_ORDER}; do
    echo "--- $group, $(date -u '+%Y-%m-%d %H:%M:%S') UTC, load$(uptime | sed 's/.*load average//')"
    if [ -e "$raw/$group" ] && [ "$group" != headline-rivals ]; then # its runs would join these
        rm -rf "$raw/$group.before"
        mv "$raw/$group" "$raw/$group.before"
    fi
    mkdir -p "$raw/$group"
    $(echo "$group" | tr - _)
done
