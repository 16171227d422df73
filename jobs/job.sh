# What the job scripts share (bash): start ranks, pass Slurm's warning on to them, requeue what can go on.

[ ! -e "$VENV/bin/activate" ] || . "$VENV/bin/activate"
mkdir -p "$RUNS"
if [ "$(id -u)" = 0 ]; then # as in a container; 4.x reads OMPI_*, 5.x PRTE_*
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

launch() { # RANKS COMMAND...: the ranks of one MPI job; returns its exit code
    local ranks=$1 checked=()
    shift
    # Names the host where the program does not start. (It lies beside this file, if the jobs folder is shared.)
    [ ! -r "$QAFEL_JOBS/checked.sh" ] || checked=(sh "$QAFEL_JOBS/checked.sh")
    case $LAUNCHER in
        srun) warned srun --mpi="$SRUN_MPI" --ntasks="$ranks" --kill-on-bad-exit=1 "${checked[@]}" "$@" ;;
        mpirun) warned mpirun $MPIRUN_OPTIONS -n "$ranks" "${checked[@]}" "$@" ;;
        *) echo "LAUNCHER is mpirun or srun, not '$LAUNCHER'" >&2 && return 2 ;;
    esac
}

# Slurm's warning before the time limit (--signal) comes to this shell, and is passed on: the ranks end their run,
# write the trace and leave with 75.
warned() {
    local code=0
    "$@" &
    local child=$!
    trap 'kill -USR1 $child 2>/dev/null' USR1
    trap 'kill -TERM $child 2>/dev/null' TERM
    wait $child || code=$?
    while kill -0 $child 2>/dev/null; do # a signal ended the wait, not the child
        code=0
        wait $child || code=$?
    done
    trap - USR1 TERM
    return $code
}

go_on_later() { # EXIT_CODE: a suite that was interrupted is put back into the queue, to do what is left of it
    if [ "$1" = 75 ] && [ -n "${SLURM_JOB_ID:-}" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$RESTARTS" ]; then
        echo "interrupted: requeued"
        scontrol requeue "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"
    fi
}
