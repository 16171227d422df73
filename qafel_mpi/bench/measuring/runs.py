"""A run's trace as a result of one row, so that references may speak of a run as of a benchmark.

[[reference]]
system = "node*"
bench = "run"
where = { dataset = "digits", algorithm = "qafel", ranks = 4 }
column = "uploads_per_s"
target = 400.0
lower = -0.2
unit = "1/s"
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import h5py
import numpy as np

from qafel_mpi.bench.measuring.result import Result, ResultError, Row
from qafel_mpi.bench.measuring.timing import Samples
from qafel_mpi.trace.reader import TraceError, open_trace

BENCH = "run"


def is_run(path: Path) -> bool:
    """Whether this HDF5 file is a trace and no benchmark's result. False for what can't be opened."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return "schema_version" in file.attrs
    except OSError:
        return False


def read_run(path: Path) -> Result:
    """The row of a run that ended as it should. Its time is seconds an upload, one sample over all uploads.

    Raises ResultError that names the file, also for a run that was interrupted.
    """
    try:
        with open_trace(path) as trace:
            about = dict(trace.attributes)
    except TraceError as error:
        raise ResultError(str(error)) from error
    if about["outcome"] != "finished" or not about["uploads"]:
        raise ResultError(f"{path}: the run is not whole: {about['outcome']}, {about['uploads']} uploads")
    uploads = int(about["uploads"])
    seconds = float(about["seconds"])
    parameters = {
        "dataset": tomllib.loads(about["experiment"])["task"]["dataset"],
        "algorithm": str(about["algorithm"]),
        "clock": str(about["driver"]),
        "ranks": int(about["ranks"]),
    }
    derived = {
        "uploads_per_s": uploads / seconds,
        "payload_bytes_per_upload": float(about["payload_bytes_per_upload"]),
        "accuracy": float(about["accuracy"]),
    }
    samples = Samples(np.array([seconds / uploads]), np.empty(0), loops=uploads)
    row = Row(BENCH, parameters, samples, reduction="rank 0's", derived=derived)
    return Result(BENCH, [row], {"host": str(about["host"])})
