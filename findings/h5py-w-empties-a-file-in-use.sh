#!/bin/sh
# h5py.File(path, "w") is refused because another process has the file open, and has emptied the file all the same.
# HDF5 truncates the file when it opens it, before it asks for the lock.
# Way out: write a temporary file beside it and rename that into place.
# Exit code 0: the behaviour is as described. Anything else: it has changed, and the output says how.
set -eu
unset HDF5_USE_FILE_LOCKING
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check h5py==3.16.0 numpy==2.4.6

cat >"$folder/show.py" <<'PYTHON'
import os
import subprocess
import sys

import h5py

path = sys.argv[1]
print(f"h5py {h5py.version.version}, HDF5 {h5py.version.hdf5_version}")
with h5py.File(path, "w") as file:
    file["measured"] = range(1000)
before = os.path.getsize(path)

reader = "import h5py, sys; f = h5py.File(sys.argv[1], 'r'); print('open', flush=True); sys.stdin.read()"
with subprocess.Popen(
    [sys.executable, "-c", reader, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
) as other:
    assert other.stdout.readline() == "open\n"
    try:
        h5py.File(path, "w")
        refused = ""
    except OSError as error:
        refused = str(error)
    after = os.path.getsize(path)
    other.stdin.close()

print(f'with a reader elsewhere, File(path, "w"): {refused or "no error"}')
print(f"size of the file: {before} bytes before, {after} bytes after")
assert "unable to lock file" in refused, "it is no longer refused"
assert before > 8000 and after == 0, "the refused call no longer empties the file"
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder/a.h5"
