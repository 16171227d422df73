"""What the messages between rank 0 and its workers hold, on the virtual clock."""

from __future__ import annotations

import numpy as np

from qafel_mpi.drivers.build import Setup
from qafel_mpi.wire import Expected, Kind

PAIRS = np.dtype("<i8")  # of a TRAIN: client, participation, client, ...
PARTS = np.dtype(  # of a SCORE
    [("part", "<i8"), ("loss", "<f8"), ("accuracy", "<f8"), ("examples", "<i8"), ("answers", "<i8")]
)


def describe(setup: Setup) -> dict[Kind, Expected]:
    """What the header of each kind of message says in this run."""
    parts = setup.task.parts(setup.experiment.evaluation.examples)
    kinds = setup.expected(
        {
            Kind.SCORE: Expected(payload_bytes=PARTS.itemsize * parts, variable=True),
        }
    )
    return kinds | {Kind.EVALUATE: kinds[Kind.MODEL]}
