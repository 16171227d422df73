"""Rows, writers that are killed, and a trace to test with."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from qafel_mpi.trace.merge import merge, shards_of, write_final, write_run
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace.seal import write_seal
from qafel_mpi.trace_schema import MESSAGES, STEPS


def row(dtype: np.dtype, **values: object) -> tuple:
    return tuple(values.get(name, b"" if dtype[name].kind == "S" else 0) for name in dtype.names or ())


@contextmanager
def edited(path: Path) -> Iterator[h5py.File]:
    """The file open for changes, which count as made on purpose."""
    with h5py.File(path, "r+") as file:
        yield file
    write_seal(path)


def child(source: str, *arguments: object) -> subprocess.Popen:
    """A process that runs this source, with row() above at hand."""
    prelude = "import sys; from pathlib import Path; from qafel_mpi.trace.recorder import Recorder\n"
    prelude += "from qafel_mpi.trace_schema import MESSAGES\n"
    code = prelude + textwrap.dedent(source)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def whole_trace(out: Path) -> Path:
    """A merged trace of 3 ranks: 3,000 messages, 100 steps."""
    directory = shards_of(out)
    for rank in range(3):
        recorder = Recorder(directory, rank, capacity=300)
        for k in range(1000):
            recorder.messages.append(row(MESSAGES, sequence=k, src=rank))
        for k in range(100 if rank == 0 else 0):
            recorder.steps.append(row(STEPS, version=k))
        recorder.close()
    write_run(directory, {"ranks": 3, "outcome": "finished", "experiment": "[stop]\naccuracy = 0.9\n"})
    write_final(directory, x=np.arange(5.0))
    return merge(directory).path
