"""A small run of digits on the virtual clock, with all that the scripts of docs/results read."""

import pytest

from qafel_mpi.config import load
from qafel_mpi.drivers.virtual import run as virtual


@pytest.fixture(scope="session")
def trace(tmp_path_factory):
    settings = (
        "clock.kind=virtual",
        "clock.start=always",
        "clock.concurrency=20",
        "clock.duration.speed_sigma=1.0",
        "task.clients=20",
        "staleness.weight=constant",
        "stop.steps=20",
        "evaluation.every_steps=20",
        "trace.encoding_error=true",
        "seed=3",
    )
    path = tmp_path_factory.mktemp("runs") / "qafel-apart-constant-seed3.h5"
    virtual.run(load("digits", list(settings)), None, path)
    return path
