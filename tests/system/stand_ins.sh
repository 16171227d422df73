# What only a cluster has, for the examples of docs/clusters.md (bash). tests/system/test_docs.py reads this before each
# block. Every command is called with the words that the page has; sizes shrink, so that the page runs in seconds.

EDITOR=true
module() { :; }

qafel-mpi() { # nothing is downloaded, but the data set must be one that can be
    case "$1 $2" in
        "data fetch") command qafel-mpi data fetch --help | grep -w "$3" ;;
        *) command qafel-mpi "$@" ;;
    esac
}

# A job is run here at once, as number 1234. With an experiment or suite of the caller's own, only the script and that
# are looked at.
sbatch() {
    while case "$1" in --account=p123 | --array=0-9) true ;; *) false ;; esac do shift; done
    [ $# = 1 ]
    bash -n "$1"
    if [ -n "${EXPERIMENT:-}${SUITE:-}" ]; then
        grep -q "^${SUITE:+SUITE}${EXPERIMENT:+EXPERIMENT}=" "$1"
        command qafel-mpi jobs render "$(basename "$1" .sbatch)" ${EXPERIMENT:+--experiment "$EXPERIMENT"} \
            ${SUITE:+--suite "$SUITE"} ${OPTIONS:+--options "$OPTIONS"} --out looked-at.sbatch
    else
        SLURM_JOB_ID=1234 SLURM_JOB_NAME=$(sed -n 's/^#SBATCH --job-name=//p' "$1") SLURM_NTASKS=2 \
            SLURM_SUBMIT_DIR=$PWD OPTIONS="--set stop.uploads=40" bash "$1"
    fi
    echo "Submitted batch job 1234"
}

mpirun() { # -n RANKS COMMAND...: at most two ranks, few uploads, and of a scaling study its smallest size
    ranks=$2
    shift 2
    case "$*" in
        *" run digits"*) set -- "$@" --set stop.uploads=40 ;;
        *-scaling*) set -- "$@" --variant wall-2 --set stop.uploads=12 --set client.pause_seconds=0 ;;
    esac
    command mpirun -n $((ranks > 2 ? 2 : ranks)) "$@"
}

srun() { # --mpi=pmix -N HOSTS -n RANKS COMMAND...
    [ "$1 $2 $4" = "--mpi=pmix -N -n" ]
    shift 4
    mpirun -n "$@"
}

python() { # -m tests.system.namespaces ...: one run of few uploads, and without root only the command's --help
    if [ "$(id -u)" = 0 ]; then
        command python "$@" --variant qafel --seeds 0 --set stop.uploads=20
    else
        command python -m tests.system.namespaces --help
    fi
}
