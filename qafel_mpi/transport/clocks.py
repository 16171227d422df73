"""Offsets between the ranks' clocks, by round trips to rank 0 of which the smallest counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from mpi4py import MPI


@dataclass(frozen=True)
class ClockReading:
    """When the rank's own clock showed local_s, rank 0's showed local_s + offset_s, within the bound."""

    rank: int
    local_s: float
    offset_s: float
    error_bound_s: float  # half the smallest round trip


def synchronise(
    comm: MPI.Intracomm, *, rounds: int, clock: Callable[[], float] = perf_counter
) -> list[ClockReading]:
    """Collective. Rank 0 measures every other rank in turn; returns the readings on rank 0, [] elsewhere.

    Cristian's algorithm: of `rounds` round trips the fastest bounds the error by half its time, whatever the
    split between the two directions. Takes rounds · (size - 1) round trips in all.
    """
    tag = 1
    ours = np.empty(1)
    theirs = np.empty(1)
    if comm.rank != 0:
        for _ in range(rounds):
            comm.Recv([ours, MPI.DOUBLE], 0, tag)
            ours[0] = clock()
            comm.Send([ours, MPI.DOUBLE], 0, tag)
        return []
    now = clock()
    readings = [ClockReading(0, now, 0.0, 0.0)]
    for rank in range(1, comm.size):
        best: ClockReading | None = None
        for _ in range(rounds):
            begun = clock()
            comm.Send([ours, MPI.DOUBLE], rank, tag)
            comm.Recv([theirs, MPI.DOUBLE], rank, tag)
            ended = clock()
            bound = (ended - begun) / 2
            if best is None or bound < best.error_bound_s:
                best = ClockReading(rank, float(theirs[0]), (begun + ended) / 2 - float(theirs[0]), bound)
        assert best is not None
        readings.append(best)
    return readings
