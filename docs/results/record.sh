#!/bin/sh
# Make the small files of docs/results from what measure.sh left in runs: sh docs/results/record.sh [GROUP...]
#
# Each file says which command made it, when, and on which machine its runs and benchmarks ran. Groups that have not
# been measured here are left as they are. Afterwards `make figures` and `make docs` show the new numbers.
# RAW=DIR OUT=DIR: in place of runs/results and docs/results.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PWD/.venv/bin:$PATH
raw=${RAW:-runs/results}
out=${OUT:-docs/results}

hosts="python -m tests.system.namespaces"

demo() {
    qafel-analysis compare runs/demo/digits/*.h5 --record $out/demo-digits.json
    qafel-analysis compare runs/demo/mushrooms/*.h5 --record $out/demo-mushrooms.json
    qafel-analysis curves runs/demo/digits/*.h5 --record $out/accuracy-vs-bytes.json
}

timeline() {
    qafel-analysis timeline $raw/timeline/run.h5 --window 0.2:0.215 --record $out/timeline.json
}

logistic() {
    qafel-analysis curves $raw/logistic/*/*.h5 --x server_steps --y loss --at 100,300,1000,3000,10000 \
        --record $out/logistic.json
    python docs/results/optimum.py $out/optimum.json
}

clocks() {
    qafel-analysis table $raw/clocks/digits/*.h5 --record $out/clocks.json
    if [ -d $raw/clocks/fashion-mnist ]; then
        qafel-analysis table $raw/clocks/fashion-mnist/*.h5 --record $out/clocks-fashion-mnist.json
    fi
    python docs/results/replays.py $out/findings-replays.json $raw/clocks/*/wall-*.h5
}

resnet18() {
    for y in loss accuracy; do
        qafel-analysis curves $raw/resnet18/*.h5 --x uploads --y $y --at 0,40,80,120,160,200 --record $out/resnet18-$y.json
    done
}

headline() { # with what headline-rivals has measured since; of runs that are in both, one
    for task in digits mushrooms text fashion-mnist; do
        [ -d $raw/headline/$task ] || continue
        qafel-analysis compare $raw/headline*/$task/*.h5 --record $out/headline-$task.json
        rm -f $out/headline-$task-rivals.json # all settings are in the first
    done
}

headline_rivals() { # where the runs of the first record are elsewhere, a second one: the pages join the two
    headline
    for task in ${TASKS:-text fashion-mnist}; do
        [ -d $raw/headline-rivals/$task ] || continue
        [ ! -d $raw/headline/$task ] || continue
        qafel-analysis compare $raw/headline-rivals/$task/*.h5 --record $out/headline-$task-rivals.json
    done
}

headline_causes() {
    for y in loss step_norm gap; do
        qafel-analysis curves $raw/headline-causes/*.h5 --x server_steps --y $y --at 1,2,3,4,5 \
            --record $out/headline-causes-$y.json
    done
}

findings() {
    findings_of_quantizers
    findings_of_load
    findings_of_theory
    budget
}

findings_of_quantizers() {
    of=$raw/findings
    qafel-analysis table $of/hidden-sync/*.h5 --record $out/findings-exact.json
    qafel-analysis curves $of/hidden-sync/*.h5 --x server_steps --y gap --at 1:500 \
        --record $out/findings-exact-gap.json
    qafel-analysis curves $of/precision-sweep/both*.h5 $of/precision-sweep/fedbuff*.h5 --x server_steps --y loss \
        --at 50,100,150,200,250,300,350,400 --record $out/findings-precision.json
    qafel-analysis compare $of/digits-grid/*.h5 --record $out/findings-grid.json
    qafel-analysis compare $of/mushrooms-grid/*.h5 --record $out/findings-grid-mushrooms.json
    for y in gap loss; do
        qafel-analysis curves $of/hidden-ablation/*.h5 --x server_steps --y $y --at 100,300,1000 \
            --record $out/findings-hidden-$y.json
    done
    python docs/results/server_codecs.py $out/findings-server.json $of/biased-server/*.h5
    python docs/results/tradeoff.py $out/findings-tradeoff.json $of/tradeoff/*.h5
}

grids() {
    qafel-analysis compare $raw/grids/fashion-mnist-grid/*.h5 --record $out/findings-grid-cnn.json
    qafel-analysis compare $raw/grids/stdlib-text-grid/*.h5 --record $out/findings-grid-text.json
}

findings_of_load() {
    of=$raw/findings
    qafel-analysis table $of/buffer-sweep/*-unweighted-*.h5 --record $out/findings-buffer.json
    qafel-analysis table $of/buffer-sweep/K?-seed*.h5 $of/buffer-sweep/K??-seed*.h5 \
        --record $out/findings-buffer-weighted.json
    qafel-analysis compare $of/mushrooms-concurrency/*.h5 --record $out/findings-concurrency.json
    qafel-analysis compare $of/noniid-sweep/*.h5 --record $out/findings-skew.json
    qafel-analysis compare $of/noniid-text/*.h5 --record $out/findings-skew-text.json
    qafel-analysis compare $of/heterogeneous-speeds/*-alike-*.h5 $of/heterogeneous-speeds/*-spread*.h5 \
        --record $out/findings-spreads.json
    python docs/results/heterogeneity.py $out/findings-speeds.json $of/heterogeneous-speeds/*-apart-*.h5 \
        $of/heterogeneous-speeds/*-labels-*.h5
}

findings_of_theory() { # of all but the runs with weights, which are no factor of the study
    of=$raw/findings
    qafel-analysis theory $of/staleness-sweep/*[0-9]-seed*.h5 $of/staleness-sweep/*fresh-seed*.h5 \
        --record $out/findings-staleness.json
    qafel-analysis theory $of/cross-term/*.h5 --record $out/findings-cross-term.json
}

budget() { # of the headline's runs
    qafel-analysis curves $raw/headline/digits/*.h5 --x wire_bytes_up --y accuracy \
        --at 1e6,2e6,5e6,1e7,2e7,5e7,1e8 --record $out/findings-budget.json
    qafel-analysis curves $raw/headline/digits/*.h5 --x wire_bytes --y accuracy \
        --at 1e6,2e6,5e6,1e7,2e7,5e7,1e8 --record $out/findings-budget-both.json
}

codec() {
    qafel-analysis bench $raw/codec/qsgd4-*.json --record $out/codec.json
    for name in widths others sums threads identity neighbour; do
        qafel-analysis bench $raw/codec/$name.json --record $out/codec-$name.json
    done
}

codec_peers() {
    peers=$(PYTHONPATH=runs/peers python -c '
from importlib.metadata import version
print(", ".join(f"{name} {version(name)}" for name in ("numpy", "torch", "bitsandbytes", "torchao")))')
    qafel-analysis bench $raw/codec-peers/*.json --note "$peers" --record $out/codec-peers.json
}

codec_large() {
    qafel-analysis bench $raw/codec-large/*.json --record $out/codec-large.json
}

server() {
    for name in sizes eden threads rules-qsgd rules-eden; do
        qafel-analysis bench $raw/server/$name.json --record $out/server-$name.json
    done
    cp $raw/server/older.json $out/server-older.json
}

codec_gaussian() { # no traces of measure.sh: it encodes vectors of its own
    python docs/results/codec_gaussian.py $out/codec-gaussian.json
}

codec_error() { # of the updates of FedBuff's first seed; and tensor by tensor, of the transformer's
    python docs/results/codec_error.py $out/codec-error.json $raw/headline/digits/fedbuff-seed0.h5 \
        $raw/headline/fashion-mnist/fedbuff-seed0.h5 $raw/headline/text/fedbuff-seed0.h5 $raw/codec-error/resnet18.h5
    python -m docs.results.codec_tensors $out/codec-tensors.json $raw/headline/text/fedbuff-seed0.h5 headline-text \
        eden2 eden1 eden2-rules eden1-rules
}

p2p() {
    qafel-analysis bench $raw/p2p/16k-*.json --record $out/p2p-16k.json
    qafel-analysis bench $raw/p2p/4M-*.json --record $out/p2p-4M.json
}

ingest() {
    qafel-analysis bench $raw/ingest/*.json --record $out/ingest.json
}

overlap() {
    qafel-analysis bench $raw/overlap/*.json --record $out/overlap.json
}

tracing() {
    qafel-analysis bench $raw/tracing/*.json --record $out/tracing.json
}

waiting() {
    qafel-analysis bench $raw/waiting/polls.json --note "mpi_yield_when_idle=0" --record $out/waiting-polls.json
    qafel-analysis bench $raw/waiting/yields.json --note "mpi_yield_when_idle=1" --record $out/waiting-yields.json
}

progress() {
    for where in poll thread; do
        qafel-analysis pace $raw/progress/*$where*.h5 --record $out/progress-$where.json
    done
}

progress_libraries() {
    qafel-analysis bench $raw/progress-libraries/*.json --record $out/progress-libraries.json
}

many_ranks() {
    qafel-analysis table $raw/many-ranks/run.h5 --record $out/many-ranks.json
}

scaling() {
    for study in strong weak; do
        qafel-analysis scaling $raw/scaling/$study/*.h5 --train-seconds 10 --record $out/scaling-$study.json
    done
}

broadcast() {
    qafel-analysis bench $raw/broadcast/broadcast-*.json --record $out/broadcast.json
    qafel-analysis broadcast $raw/broadcast/*.json --latency-us 2 --link-gbit 100 --record $out/broadcast-model.json
}

broadcast_hosts() {
    qafel-analysis bench $raw/broadcast-hosts/250mbit.json --note "started with $hosts --hosts 8 -n 8 --rate 250mbit" \
        --record $out/broadcast-hosts.json
}

virtual() {
    for name in overhead memory speed-up; do
        qafel-analysis bench $raw/virtual/$name.json --record $out/virtual-$name.json
    done
    qafel-analysis table $raw/virtual/logistic-*.h5 --record $out/virtual-logistic.json
    qafel-analysis table $raw/virtual/million.h5 --record $out/virtual-million.json
}

replay() {
    qafel-analysis bench $raw/replay/digests-*.json --record $out/digests.json
    qafel-analysis bench $raw/replay/replay.json --record $out/replay.json
}

sizes() {
    qafel-analysis bench $raw/sizes/*.json --record $out/sizes.json
}

checkpoint() {
    qafel-analysis bench $raw/checkpoint/*.json --record $out/checkpoint.json
}

chaos() {
    for name in digits cnn; do
        qafel-analysis bench $raw/chaos/$name.json --record $out/chaos-$name.json
    done
}

shared_data() {
    qafel-analysis bench $raw/shared-data/500mb.json --record $out/shared-data.json
}

peers() {
    versions=$(python -c '
from qafel_mpi.bench.peers.environments import NAMES, recipe
print(", ".join(recipe(name).REQUIRES[0] for name in NAMES))')
    qafel-analysis bench $raw/peers/*.json --note "$versions" --record $out/peers.json
}

link() { # GROUP OPTION...
    name=$1
    shift
    qafel-analysis pace "$raw/$name"/*.h5 --note "started with $hosts --hosts 4 -n 4 $*" --record "$out/$name.json"
}

link_rates() {
    python docs/results/link_rates.py $out/findings-link-rates.json $raw/link-rates/*/*.h5
    python docs/results/replays.py $out/findings-replays-links.json $raw/link-rates/*/*.h5
}

link_cnn_100mbit() {
    link link-cnn-100mbit --rate 100mbit
}

link_cnn_1gbit() {
    link link-cnn-1gbit --rate 1gbit
}

link_resnet18_100mbit() {
    link link-resnet18-100mbit --rate 100mbit
}

link_resnet18_1gbit() {
    link link-resnet18-1gbit --rate 1gbit
}

far_cnn() {
    link far-cnn --rate 100mbit --delay-ms 10
}

far_resnet18() {
    link far-resnet18 --rate 100mbit --delay-ms 10
}

analysis() {
    cp $raw/analysis/analysis.json $out/analysis.json
}

large_message() {
    for part in upload fanout tree ibcast; do
        cp $raw/large-message/$part.json $out/large-message-$part.json
    done
}

startup() { # it counts calls, too
    python docs/results/startup.py $out/startup.json
    cp $raw/startup/turns.json $out/startup-turns.json
    qafel-analysis bench $raw/startup/phases.json --record $out/startup-phases.json
}

small() { # of what the group small of measure.sh left; what takes a core for long goes beside the rest
    errors_of_small &
    errors=$!
    replayed_of_small &
    replayed=$!
    headline
    logistic
    findings
    grids
    wait $errors
    wait $replayed
}

replayed_of_small() {
    clocks
    [ ! -d $raw/link-rates ] || link_rates
}

errors_of_small() {
    python docs/results/codec_error.py $out/codec-error.json $raw/headline/digits/fedbuff-seed0.h5 \
        $raw/headline/fashion-mnist/fedbuff-seed0.h5 $raw/headline/text/fedbuff-seed0.h5
}

measured=$(cd $raw && echo *)
for group in ${*:-$measured}; do
    $(echo "$group" | tr - _) >/dev/null
done
