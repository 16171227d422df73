#!/bin/sh
# All that is to be seen on a GPU, on one card, in at most eight minutes and without a network:
#
#     sh tests/gpu/run.sh [FOLDER]      (default: docs/results/gpu)
#
# FOLDER gets a JSON file and a log of each stage; stages.json: what passed, failed or was skipped, and why, with its
# seconds; and goals.json: of each goal the value and whether it is met. Without a GPU the kernels run in Triton's
# interpreter, runs compute on the CPU and are short, and what only a card can tell is skipped. The server lives in the
# host's memory, on a host with a card, too: its stage measures that. Exit code 0: nothing has failed.
#
# LIMIT=120: the seconds that all stages together have. STAGES="bytes wall": these alone. KERNELS=fp4: of the interpreted
# kernels those whose tests match, as pytest's -k has it. UPLOADS=2 SIZES=1000: of the runs, and of the benchmarks' vectors.
set -u
cd "$(dirname "$0")/../.."
PATH=$PWD/.venv/bin:$PATH
set -a
. jobs/local.env
set +a
out=${1:-docs/results/gpu}
limit=${LIMIT:-470}
begun=$(date +%s)
mkdir -p "$out"
runs=$(mktemp -d)
trap 'rm -rf "$runs"' EXIT
: >"$runs/stages"

if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    card=yes sizes=${SIZES:-29282,11689512} uploads=${UPLOADS:-200}
else
    card='' sizes=${SIZES:-29282} uploads=${UPLOADS:-8}
fi

note() { # STAGE RESULT SECONDS WHY
    echo "$1: $2${4:+ ($4)}, $3 s"
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "${4:-}" >>"$runs/stages"
}

asked_for() { # NAME
    case " ${STAGES:-$1} " in *" $1 "*) ;; *) return 1 ;; esac
}

stage() { # NAME SECONDS COMMAND...: its stdout goes into a log, and a run's summary into NAME.json
    name=$1 most=$2 from=$(date +%s)
    shift 2
    if ! asked_for "$name"; then
        note "$name" skipped 0 "not asked for"
        return
    fi
    left=$((begun + limit - from))
    if [ "$left" -lt 10 ]; then
        note "$name" skipped 0 "no time is left"
        return
    fi
    if [ -z "$card" ] || [ "$most" -gt "$left" ]; then most=$left; fi # a stage's own limit is for a card
    code=0
    timeout -k 10 "$most" "$@" >"$out/$name.log" 2>&1 || code=$?
    took=$(($(date +%s) - from))
    case $code in
        0) note "$name" passed $took ;;
        124 | 137) note "$name" failed $took "it took more than $most s" ;;
        *) note "$name" failed $took "exit code $code: $out/$name.log" ;;
    esac
}

on_a_card() { # like stage; without one it is skipped
    if [ -n "$card" ]; then stage "$@"; else note "$1" skipped 0 "needs a GPU"; fi
}

run() { # NAME SECONDS RANKS EXPERIMENT OPTION...: a run, its summary in NAME.json
    name=$1 most=$2 ranks=$3
    shift 3
    stage "$name" "$most" sh -c 'out=$1; shift; "$@" >"$out.part" && mv "$out.part" "$out"' sh "$out/$name.json" \
        $([ "$ranks" = 1 ] || echo mpirun -n "$ranks") qafel-mpi run "$@" --out "$runs/$name.h5" --json
}

made="--set task.dataset=synthetic --set task.partition.kind=iid --set task.shape=[3,32,32] --set task.classes=10
    --set task.examples=2000 --set task.clients=100 --set evaluation.examples=32 --set stop.uploads=$uploads"

if [ -n "$card" ]; then
    stage bytes 120 python -m pytest -q tests/unit/kernels/test_gpu.py -k 'not interpreted'
else
    stage bytes 240 env TRITON_INTERPRET=1 python -m pytest -q -x -p no:cacheprovider \
        tests/unit/kernels/interpreted_kernels.py ${KERNELS:+-k "$KERNELS"}
fi
on_a_card codec 110 qafel-mpi bench codec --device cuda --codec qsgd,eden,fp4 --bits 2,4,8 --d $sizes --seconds 0.2 \
    --json "$out/codec.json"
on_a_card overlap 80 mpirun -n 2 qafel-mpi bench overlap --uploads 160 --json "$out/overlap.json"
stage server 60 qafel-mpi bench server --algorithm qafel --d $sizes --seconds 0.2 --json "$out/server.json"
run wall 60 4 digits --set stop.uploads=$uploads --set transport.share_gpus=true
run resnet18 80 2 resnet18 $made
run transformer 80 2 stdlib-text --set stop.uploads=$uploads --set evaluation.examples=32
for batch in 1 8 32; do # clients trained together, of the paper's CNN
    run together-$batch 40 1 celeba $made --set task.classes=2 --set task.dropout=0 --set clock.kind=virtual --set client.together=$batch \
        --set client.batch_size=8 --set client.local_steps=2
done

python -m tests.gpu.goals "$out"
python - "$runs/stages" "$out/stages.json" <<'PYTHON'
import json
import sys
from pathlib import Path

import torch

from qafel_mpi.drivers.provenance import provenance

rows = [line.split("\t") for line in Path(sys.argv[1]).read_text().splitlines()]
names = ("stage", "result", "seconds", "why")
stages = [dict(zip(names, row, strict=True)) | {"seconds": int(row[2])} for row in rows]
card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
found = {"card": card, "stages": stages, "provenance": provenance(["sh", "tests/gpu/run.sh"])}
Path(sys.argv[2]).write_text(json.dumps(found, indent=1, default=str) + "\n")
sys.exit(any(stage["result"] == "failed" for stage in stages))
PYTHON
