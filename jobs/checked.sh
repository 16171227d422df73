#!/bin/sh
# Every rank of a job on several hosts starts through this:  mpirun -n 8 sh jobs/checked.sh qafel-mpi run ...
# Each looks whether the program can be started there; where it can't, the host's first rank says so, with the host's
# name, and its exit code ends the job. (A launcher's own message names a missing command's host at best, and Open MPI
# 5.0's mpirun may hang after it; Python's, for a missing package, names none.)
refuse() { # WHY
    case ${OMPI_COMM_WORLD_LOCAL_RANK:-${MPI_LOCALRANKID:-${SLURM_LOCALID:-0}}} in
        0) echo "$(hostname): $1" >&2 ;;
        *) sleep 10 ;; # the host's first rank speaks, and ends this one too
    esac
    # MPICH's mpirun lets the others wait when a rank leaves that has said nothing to it. So this one says "abort": PMI's
    # words, to the socket that it was given. (sh can't write to a descriptor of two digits.)
    if [ -n "${MPI_LOCALRANKID:-}" ] && [ -n "${PMI_FD:-}" ]; then
        sleep 0.5 # the message goes another way, and would be lost if it came second
        bash -c 'echo "cmd=abort exitcode=2" >&"$PMI_FD"'
    fi
    exit 2
}

found=$(command -v "$1") ||
    refuse "no $1 on the PATH of this host; install the program on a file system that all hosts share, or on each of them"
why=$("$found" --version 2>&1) || refuse "$found does not start on this host: $(echo "$why" | tail -n 1)"
exec "$@"
