#!/bin/sh
# The demo (make demo): QAFeL at 4/4 bits and FedBuff over MPI, to the same target from the same seeds, then compared.
# Rank 0 is the server and the other ranks are clients that train without pause. Two minutes at most on two cores.
set -eu
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH
set -a
. jobs/local.env
set +a
out=runs/demo

compare() { # EXPERIMENT SEEDS
    printf '\n--- %s, seeds %s\n' "$1" "$2"
    mpirun -n 4 qafel-mpi suite "$1" --seeds "$2" --require-target --out "$out/$1" </dev/null
    printf '\n--- %s, compared\n' "$1"
    qafel-analysis compare "$out/$1"/*.h5
}

rm -rf "$out" # runs of an earlier version would join the comparison
compare digits 0-4
if qafel-mpi list | grep '^mushrooms' | grep -q 'needs data'; then
    echo "mushrooms is left out: no mushrooms.libsvm in QAFEL_DATA_DIR"
else
    compare mushrooms 0
fi
page=$(qafel-analysis report "$out"/*/*.h5 -o "$out/report.html")
echo
echo "The report, a page for any browser: $PWD/$page"
echo "The traces: $PWD/$out/*/*.h5 (HDF5). More of them: qafel-analysis table $out/*/*.h5"
