"""What the messages between rank 0 and its workers hold, on the virtual clock."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.virtual.outstanding import Outstanding
from qafel_mpi.wire import Expected, Kind

TAG_HALT = 13  # a STOP that overtakes the orders: what is still to be trained is of no use any more
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


def addressee(jobs: Collection[tuple[int, int]], outstanding: Outstanding, *, kept: bool) -> int:
    """The worker that trains a batch: the one with the least to do.

    jobs: clients and participations. kept: workers keep a part of their clients' state (a residual): then it is the
    client's own worker, and a batch has one client.
    """
    if not kept:
        return outstanding.least
    ((client, _),) = jobs
    return outstanding.ranks[client % len(outstanding)]
