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

compare() { # EXPERIMENT SEED...
    experiment=$1
    shift
    for seed; do
        for algorithm in qafel fedbuff; do
            printf '\n--- %s, %s, seed %s\n' "$experiment" $algorithm "$seed"
            mpirun -n 4 qafel-mpi run "$experiment" --set algorithm=$algorithm --seed "$seed" --require-target \
                --overwrite --out "$out/$experiment-$algorithm-$seed.h5" </dev/null
        done
    done
    printf '\n--- %s, compared\n' "$experiment"
    qafel-analysis compare "$out/$experiment"-*.h5
}

rm -rf "$out" # runs of an earlier version would join the comparison
compare digits 0 1 2
if qafel-mpi list | grep '^mushrooms' | grep -q 'needs data'; then
    echo "mushrooms is left out: no mushrooms.libsvm in QAFEL_DATA_DIR"
else
    compare mushrooms 0
fi
echo
echo "The traces: $PWD/$out/*.h5 (HDF5). More of them: qafel-analysis table $out/*.h5"
