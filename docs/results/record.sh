#!/bin/sh
# Make the small files of docs/results from what measure.sh left in runs: sh docs/results/record.sh [GROUP...]
#
# Each file says which command made it, when, and on which machine its runs and benchmarks ran. Groups that have not
# been measured here are left as they are. Afterwards `make figures` and `make docs` show the new numbers.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PWD/.venv/bin:$PATH
raw=runs/results
out=docs/results

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
    qafel-analysis curves $raw/logistic/*/*.h5 --x server_steps --y loss --at 100,1000,10000 --record $out/logistic.json
    python docs/results/optimum.py $out/optimum.json
}

clocks() {
    qafel-analysis table $raw/clocks/digits/*.h5 --record $out/clocks.json
    qafel-analysis table $raw/clocks/fashion-mnist/*.h5 --record $out/clocks-fashion-mnist.json
}

codec() {
    qafel-analysis bench $raw/codec/qsgd4-*.json --record $out/codec.json
    for name in widths threads identity neighbour; do
        qafel-analysis bench $raw/codec/$name.json --record $out/codec-$name.json
    done
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

sizes() {
    qafel-analysis bench $raw/sizes/*.json --record $out/sizes.json
}

shared_data() {
    qafel-analysis bench $raw/shared-data/500mb.json --record $out/shared-data.json
}

link() { # NAME FOLDER OPTION...
    name=$1 folder=$2
    shift 2
    qafel-analysis pace "$raw/$folder"/*.h5 --note "started with $hosts --hosts 4 -n 4 $*" --record "$out/$name.json"
}

link_cnn() {
    link link-cnn-100mbit link-cnn/100mbit --rate 100mbit
    link link-cnn-1gbit link-cnn/1gbit --rate 1gbit
}

link_resnet18_100mbit() {
    link link-resnet18-100mbit link-resnet18-100mbit --rate 100mbit
}

link_resnet18_1gbit() {
    link link-resnet18-1gbit link-resnet18-1gbit --rate 1gbit
}

far_cnn() {
    link far-cnn far-cnn --rate 100mbit --delay-ms 10
}

measured=$(cd $raw && echo *)
for group in ${*:-$measured}; do
    $(echo "$group" | tr - _) >/dev/null
done
