#!/bin/sh
# After File.flush a dataset can be read in full, whatever happens to the writer. When the writer then appends rows,
# calls Dataset.flush and is killed, the dataset can no longer be read in full: not even the earlier rows come with [:].
# Dataset.flush writes the dataset's new length, and not the file's new end, so that the last chunk lies beyond it.
# Way out: call File.flush, never Dataset.flush alone. A damaged file still gives its earlier chunks one by one.
# Exit code 0: the behaviour is as described. Anything else: it has changed, and the output says how.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check h5py==3.16.0 numpy==2.4.6

cat >"$folder/writer.py" <<'PYTHON'
"""Append 250 rows, 50 at a time, flush after each 50, and be killed. The last flush is the one that is asked for."""

import os
import signal
import sys

import h5py
import numpy as np

path, last_flush = sys.argv[1:]
file = h5py.File(path, "w")
data = file.create_dataset("rows", (0,), "f8", maxshape=(None,), chunks=(50,))
for begin in range(0, 250, 50):
    data.resize((begin + 50,))
    data[begin:] = np.arange(begin, begin + 50)
    if begin < 200 or last_flush == "File.flush":
        file.flush()
if last_flush == "Dataset.flush":
    data.flush()
os.kill(os.getpid(), signal.SIGKILL)
PYTHON

cat >"$folder/show.py" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import h5py

print(f"h5py {h5py.version.version}, HDF5 {h5py.version.hdf5_version}; 200 rows flushed with File.flush, then 50 more")


def after(last_flush):
    """The dataset's length, whether [:] reads it, and the rows that chunk after chunk gives."""
    path = Path(__file__).with_name(f"{last_flush}.h5")
    writer = subprocess.run([sys.executable, Path(__file__).with_name("writer.py"), path, last_flush])
    assert writer.returncode == -9
    readable = []
    with h5py.File(path) as file:
        data = file["rows"]
        try:
            whole = list(data[:]) == list(range(len(data)))
        except OSError as error:
            whole = False
            print(f"{last_flush}: rows[:] raises OSError: {error}")
        for begin in range(0, len(data), 50):
            try:
                readable += list(data[begin : begin + 50])
            except OSError:
                pass
        print(f"{last_flush}: length {len(data)}, read by [:]: {whole}, read chunk by chunk: {len(readable)}")
        return len(data), whole, len(readable)


assert after("File.flush") == (250, True, 250), "File.flush no longer keeps every row"
assert after("Dataset.flush") == (250, False, 200), "Dataset.flush no longer leaves a dataset that [:] can't read"
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
