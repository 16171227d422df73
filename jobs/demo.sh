#!/bin/sh
# The demo (make demo): QAFeL at 4/4 bits and FedBuff over MPI, to the same target from the same seeds, then compared.
# Rank 0 is the server, and the other ranks play 100 clients without pause. It takes two minutes on two cores.
#   --offline        download nothing
#   FETCH_SECONDS    how long the download of the second data set may take (10)
set -eu
offline=
for argument; do
    case $argument in
        --offline) offline=1 ;;
        *) echo "demo: unknown argument $argument; the only option is --offline" >&2 && exit 2 ;;
    esac
done
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

missing() { qafel-mpi list | grep '^mushrooms ' | grep -q 'needs data'; }

fetched() { # whether mushrooms is here; one line says what was done for it
    if ! missing; then
        echo "mushrooms is already on this machine"
        return 0
    fi
    if [ "$offline" ]; then
        echo "mushrooms is left out: it is not on this machine, and --offline downloads nothing"
        return 1
    fi
    code=0
    said=$(timeout "${FETCH_SECONDS:-10}" qafel-mpi data fetch mushrooms 2>&1 </dev/null) || code=$?
    said=$(printf '%s\n' "$said" | tail -n 1)
    case $code in
        0) echo "mushrooms was downloaded to $said" ;;
        124) echo "mushrooms is left out: its download took too long; qafel-mpi data fetch mushrooms goes on with it" ;;
        *) echo "mushrooms is left out: $said" ;;
    esac
    return $code
}

rm -rf "$out" # runs of an earlier version would join the comparison
compare digits 0-4
echo
if fetched; then compare mushrooms 0; fi
page=$(qafel-analysis report "$out"/*/*.h5 -o "$out/report.html")
echo
echo "The report, a page for any browser: $PWD/$page"
echo "The traces: $PWD/$out/*/*.h5 (HDF5). More of them: qafel-analysis table $out/*/*.h5"
echo
qafel-analysis compare "$out"/*/*.h5 --sentence
