#!/bin/sh
# Every rank of a job on several hosts starts through this:  mpirun -n 8 sh jobs/checked.sh qafel-mpi run ...
# The first rank of each host looks whether the program can be started there; if not, it says on which host, and its
# exit code ends the job. (A launcher's own message names a missing command's host at best, and Open MPI 5.0's mpirun
# may hang after it; Python's, for a missing package, names none.)
case ${OMPI_COMM_WORLD_LOCAL_RANK:-${MPI_LOCALRANKID:-${SLURM_LOCALID:-0}}} in
    0)
        if ! found=$(command -v "$1"); then
            echo "$(hostname): no $1 on the PATH of this host; install the program on a file system that all" \
                "hosts share, or on each of them" >&2
            exit 2
        fi
        if ! why=$("$found" --version 2>&1); then
            echo "$(hostname): $found does not start on this host: $(echo "$why" | tail -n 1)" >&2
            exit 2
        fi
        ;;
esac
exec "$@"
