"""Times that begin on rank 0 and end on another rank, on rank 0's clock: offsets before and after, drift between.

Clocks of hosts drift by some 10 µs a second: what was right before seconds of sampling is wrong after them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from qafel_mpi.bench.measuring.timing import Samples
from qafel_mpi.transport.clocks import ClockReading, synchronise

ROUNDS = 50  # round trips a rank

Read = Callable[[MPI.Intracomm], Sequence[ClockReading]]


class Last(NamedTuple):
    """The end of a sample."""

    rank: int  # whose clock said when it ended
    begun_s: float  # the sample's beginning, on rank 0's


def _read(comm: MPI.Intracomm) -> Sequence[ClockReading]:
    return synchronise(comm, rounds=ROUNDS)


class HostClocks:
    """Collective: the first reading. All is on rank 0; elsewhere offsets and error are 0.

    offsets_s: (size,), to add to each rank's clock. error_s: the largest bound of their error, after `read_again`
    also of what lies between, as far as clocks drift evenly.
    """

    def __init__(self, comm: MPI.Intracomm, read: Read = _read):
        self.comm, self.read = comm, read
        self.one_clock = _one_host(comm)
        self.drifts = np.zeros(comm.size)  # seconds a second
        self.error_s = 0.0
        self.begun_s, self.offsets_s = self._read()

    def _read(self) -> tuple[float, np.ndarray]:
        """(when, offsets)."""
        offsets_s = np.zeros(self.comm.size)
        begun_s = perf_counter()
        readings = self.read(self.comm)
        # A host has one monotonic clock; that no reading speaks against it is looked at all the same.
        if not (self.one_clock and all(abs(r.offset_s) <= r.error_bound_s for r in readings)):
            for reading in readings:
                offsets_s[reading.rank] = reading.offset_s
                self.error_s = max(self.error_s, reading.error_bound_s)
        return (begun_s + perf_counter()) / 2, offsets_s

    def read_again(self) -> None:
        """Collective: behind the last sample."""
        ended_s, offsets_s = self._read()
        self.drifts = (offsets_s - self.offsets_s) / (ended_s - self.begun_s)

    def corrected(self, samples: Samples, ends: Sequence[Last]) -> Samples:
        """Samples made with offsets_s, warm-ups first -> with what the offsets were at the time."""
        if not ends:  # not rank 0
            return samples
        moved = np.array([self.drifts[end.rank] * (end.begun_s - self.begun_s) for end in ends])
        warmups = len(samples.warmups)
        return Samples(samples.values + moved[warmups:], samples.warmups + moved[:warmups], samples.loops)


def _one_host(comm: MPI.Intracomm) -> bool:
    """Collective."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    size = node.size
    node.Free()
    mine, least = np.array([size], dtype=np.int64), np.zeros(1, dtype=np.int64)
    comm.Allreduce([mine, MPI.INT64_T], [least, MPI.INT64_T], MPI.MIN)
    return (
        bool(least[0] == comm.size)
        and "CLOCK_MONOTONIC" in time.get_clock_info("perf_counter").implementation
    )
