# What the job scripts share (bash): start ranks, pass Slurm's warning on to them, requeue what can go on.

# For a site.env that leaves them out.
: "${VENV:=}" "${LAUNCHER:=mpirun}" "${SRUN_MPI:=pmix}" "${MPIRUN_OPTIONS:=}" "${OPTIONS:=}" "${RESTARTS:=5}"
: "${SRUN_STAYS:=20}" # seconds that srun may take to end after the last rank of a heterogeneous job
: "${RUNS:=${SLURM_SUBMIT_DIR:-$PWD}/runs}"

load_modules() { # NAMES: where the job's shell has no `module`, as on some sites, the files that define it are read
    local init
    for init in "${LMOD_PKG:-}/init/bash" "${MODULESHOME:-}/init/bash" /etc/profile.d/{lmod,z00_lmod,modules}.sh; do
        ! command -v module >/dev/null || break
        [ ! -r "$init" ] || . "$init"
    done
    command -v module >/dev/null || { echo "$(hostname): no command module, to load: $*" >&2 && exit 2; }
    module load "$@" || { echo "$(hostname): module load $* failed; \`module avail\` shows what there is" >&2 && exit 2; }
}
[ -z "${MODULES:-}" ] || load_modules $MODULES

words() { # ARRAY TEXT: the text's words into the array, its quotes obeyed as a shell does; nothing is expanded
    local text
    text=$(xargs -r printf '%s\n' <<<"$2") || { echo "this can not be parsed; check its quotes: $2" >&2 && exit 2; }
    local -n into=$1
    into=()
    [ -z "$text" ] || mapfile -t into <<<"$text"
}
words options "$OPTIONS"
words mpirun_options "$MPIRUN_OPTIONS"

[ ! -e "$VENV/bin/activate" ] || . "$VENV/bin/activate"
mkdir -p "$RUNS"
# A single run's name. A job that SLURM has requeued (a node failed) goes on from the run's checkpoint (single_run); where
# there is none it begins anew, beside what its first start left.
first=$RUNS/$SLURM_JOB_NAME-$SLURM_JOB_ID
run=$first${SLURM_RESTART_COUNT:+-restart$SLURM_RESTART_COUNT}
suite_runs=$RUNS/$(basename "${SUITE:-}" .toml) # of a suite's
# What srun, also mpirun's own, does not take over by itself: SLURM 22.05 and later, and sbatch --export=NONE.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
export SLURM_EXPORT_ENV=ALL
# Of the two ways in which SLURM's PMIx lets ranks wait for each other, the one that does: in the other (its default) nodes
# fewer than TreeWidth do not wait for each other, and MPI_Init of Open MPI may crash (docs/clusters.md).
export SLURM_PMIX_FENCE=${SLURM_PMIX_FENCE:-ring}
if [ "$(id -u)" = 0 ]; then # as in a container; 4.x reads OMPI_*, 5.x PRTE_*
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

launch() { # RANKS COMMAND...: the ranks of one MPI job, of a heterogeneous one all; returns its exit code
    local ranks=$1 checked=()
    shift
    # Names the host where the program does not start. (It lies beside this file, if the jobs folder is shared.)
    [ ! -r "$QAFEL_JOBS/checked.sh" ] || checked=(sh "$QAFEL_JOBS/checked.sh")
    case $LAUNCHER${SLURM_HET_SIZE:+-het} in
        srun) warned srun --mpi="$SRUN_MPI" --ntasks="$ranks" --kill-on-bad-exit=1 "${checked[@]}" "$@" ;;
        srun-het) launch_in_parts "${checked[@]}" "$@" ;;
        mpirun-het) echo "mpirun sees one part of a heterogeneous job: set LAUNCHER=srun" >&2 && return 2 ;;
        mpirun) warned mpirun "${mpirun_options[@]}" -n "$ranks" "${checked[@]}" "$@" ;;
        *) echo "LAUNCHER is mpirun or srun, not '$LAUNCHER'" >&2 && return 2 ;;
    esac
}

# Until SLURM 24.05.4 the srun of a heterogeneous job may stay or crash when its ranks have ended (docs/clusters.md). So each
# rank writes down how it ended; srun is given some seconds more, and its own exit code is not asked for if it had to be
# killed.
NOTED='trap : USR1 TERM; "$@"; code=$?; trap - USR1 TERM # the signals are for the command
    echo $code >"$0/$SLURM_PROCID"; [ $code -le 128 ] || kill -$((code - 128)) $$; exit $code'
launch_in_parts() { # COMMAND...: each part of the job has the tasks that it was submitted with
    local parts=0-$((SLURM_HET_SIZE - 1)) ends ranks=0 of_part code=0 worst
    for of_part in "${!SLURM_NTASKS_HET_GROUP_@}"; do ranks=$((ranks + ${!of_part})); done
    ends=$(mktemp -d "$RUNS/.ends-XXXXXX") || return 2
    warned srun --mpi="$SRUN_MPI" --het-group="$parts" --kill-on-bad-exit=1 sh -c "$NOTED" "$ends" "$@" || code=$?
    # What a rank ended with comes before 137 and 143, by which srun ends the others.
    worst=$(cat "$ends"/* 2>/dev/null | sort -n |
        awk '$1 != 0 && $1 != 137 && $1 != 143 { own = $1 } { last = $1 } END { print own ? own : last }')
    if [ $code -ge 128 ] && [ $code != "$worst" ] && { all_ended || [ "${worst:-0}" != 0 ]; }; then
        echo "srun ended with $code and its ranks with $worst, which is the job's exit code" >&2
        code=$worst
    fi
    rm -rf "$ends"
    return $code
}

all_ended() { # the variables are those of launch_in_parts
    [ "$ranks" -gt 0 ] && [ "$(ls "$ends" | wc -l)" -ge "$ranks" ]
}

end_with_ranks() { # SRUN: kill it if it stays. After a failure it waits itself, for SLURM's KillWait.
    local seconds=0 limit
    while sleep 2 && kill -0 "$1"; do
        if all_ended; then
            limit=$SRUN_STAYS
        elif grep -rqxv 0 "$ends"; then
            limit=$((SRUN_STAYS * 15))
        else
            continue
        fi
        seconds=$((seconds + 2))
        [ $seconds -lt "$limit" ] || kill -KILL "$1"
    done
}

single_run() { # RANKS OPTIONS...: $EXPERIMENT; in a job that was requeued, from the last checkpoint on
    local ranks=$1 shards found="" data=() i
    shift
    for shards in "$first".shards "$first"-restart*.shards; do
        ! compgen -G "$shards/checkpoint.*.qck" >/dev/null || found=${shards%.shards}
    done
    if [ -z "$found" ]; then
        launch "$ranks" qafel-mpi run "$EXPERIMENT" "$@" --out "$run.h5"
        return
    fi
    for ((i = 1; i <= $#; i++)); do # of the options, what is in no checkpoint
        case ${!i} in
            --data-dir | --checkpoint-every) data+=("${!i}" "${@:i+1:1}") ;;
            --data-dir=* | --checkpoint-every=* | --require-target | --json) data+=("${!i}") ;;
        esac
    done
    launch "$ranks" qafel-mpi run --resume "$found.h5" "${data[@]}"
}

# Slurm's warning before the time limit (--signal) comes to this shell, and is passed on: the ranks end their run,
# write the trace and leave with 75. So does the SIGTERM of scancel or of a preemption.
cancelled="" ends="" # ends: of launch_in_parts
warned() {
    local code=0 guard=""
    "$@" &
    local child=$!
    [ -z "${ends:-}" ] || { end_with_ranks $child >/dev/null 2>&1 & guard=$!; }
    trap 'kill -USR1 $child 2>/dev/null' USR1
    trap 'cancelled=yes; kill -TERM $child 2>/dev/null' TERM
    wait $child || code=$?
    while kill -0 $child 2>/dev/null; do # a signal ended the wait, not the child
        code=0
        wait $child || code=$?
    done
    trap - USR1 TERM
    [ -z "$guard" ] || kill $guard 2>/dev/null || true
    return $code
}

in_turn() { # the ranks of `launch` are dealt to the hosts in turn, not one host filled after the other
    export OMPI_MCA_rmaps_base_mapping_policy=node PRTE_MCA_rmaps_default_mapping_policy=node # Open MPI 4, 5
    HYDRA_HOST_FILE=$(mktemp) # MPICH
    export HYDRA_HOST_FILE
    trap 'rm -f "$HYDRA_HOST_FILE"' EXIT
    scontrol show hostnames >"$HYDRA_HOST_FILE"
    export I_MPI_PERHOST=1 # Intel MPI: not tried here
}

scaling_table() { # of the runs that there are, also where a size could not run
    local traces
    shopt -s nullglob
    traces=("$suite_runs"/*.h5)
    [ ${#traces[@]} = 0 ] || qafel-analysis scaling "${traces[@]}"
}

go_on_later() { # EXIT_CODE: a suite that was interrupted is put back into the queue, to do what is left of it
    # A job that was cancelled stays so, and SLURM itself puts back one that was preempted.
    [ -z "$cancelled" ] || return 0
    # The number of an array's last task is the array's own, which would put back all of its tasks.
    local job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
    if [ "$1" = 75 ] && [ -n "${SLURM_JOB_ID:-}" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$RESTARTS" ]; then
        echo "interrupted: requeued"
        scontrol requeue "${job:-$SLURM_JOB_ID}"
        exit "$1"
    fi
}
