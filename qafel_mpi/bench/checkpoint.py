"""What checkpoints cost a run on the wall clock, by the size of its model.

Runs as in sizes.py write one whenever the one before is on the disk; a sample is what one of them cost, the mean of a
run: the time that the run stood still, and that of the thread that writes beside it. A run by default writes the next
one after `every_s` seconds, so that they take `share` of its time, if the thread's time counts as lost too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from mpi4py import MPI

from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Samples
from qafel_mpi.bench.overlap import Drive, run
from qafel_mpi.bench.sizes import experiment

if TYPE_CHECKING:
    from qafel_mpi.trace.reader import Trace

RUNS, WARMUPS = 6, 1  # of each size


class Cost(NamedTuple):
    """What is read of a run. Seconds of one checkpoint."""

    d: int
    written: int
    failed: int
    bytes: int
    held_s: float
    write_s: float


def rows(
    comm: MPI.Intracomm, drive: Drive, sizes: Sequence[int], uploads: int, *, least_s: float, share: float
) -> Iterator[Row]:
    """Collective; rows on rank 0 alone. drive: a wall run that writes a checkpoint at every step.

    sizes: parameters, about. least_s, share: what the default interval follows from.
    """
    for d in sizes:
        costs = [run(comm, drive, experiment(d, "qafel", uploads), read) for _ in range(RUNS)]
        if found := [cost for cost in costs if cost is not None]:
            yield row(found, comm.size, least_s=least_s, share=share)


def read(trace: Trace) -> Cost:
    """Raises ZeroDivisionError where the run wrote none: it was too short."""
    of = json.loads(trace.attributes["checkpoints"])
    count = int(of["written"])
    return Cost(
        int(trace.attributes["parameters"]),
        count,
        int(of["failed"]),
        int(of["bytes"]),
        float(of["held_s"]) / count,
        float(of["write_s"]) / count,
    )


def row(costs: Sequence[Cost], ranks: int, *, least_s: float, share: float) -> Row:
    """costs: of runs of one size, WARMUPS of them first."""
    totals = np.array([cost.held_s + cost.write_s for cost in costs])
    took_s = float(np.median(totals[WARMUPS:]))
    every_s = max(least_s, took_s / share)
    return Row(
        "checkpoint",
        {"d": costs[0].d, "ranks": ranks},
        Samples(totals[WARMUPS:], totals[:WARMUPS]),
        bytes_moved=float(costs[-1].bytes),
        wrong=sum(cost.failed for cost in costs),
        reduction="a run's mean of one checkpoint",
        derived={
            "held_us": 1e6 * float(np.median([cost.held_s for cost in costs[WARMUPS:]])),
            "write_us": 1e6 * float(np.median([cost.write_s for cost in costs[WARMUPS:]])),
            "every_s": every_s,
            "share": took_s / (every_s + took_s),
        },
    )
