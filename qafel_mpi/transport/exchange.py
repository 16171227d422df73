"""Between all ranks, before and after a run: texts of different lengths, by collectives on buffers, no pickle."""

from __future__ import annotations

import time

import numpy as np
from mpi4py import MPI

from qafel_mpi.transport.backoff import sleep_until

NAP_SECONDS = 0.01


def gather_text(comm: MPI.Comm, text: str) -> list[str]:
    """Collective: every rank's text, in rank order, on rank 0; [] elsewhere."""
    mine = np.frombuffer(text.encode(), np.uint8).copy()
    sizes = np.zeros(comm.size, dtype=np.int64)
    comm.Gather(np.array([mine.size], dtype=np.int64), sizes, root=0)
    everything = np.empty(int(sizes.sum()), np.uint8)
    comm.Gatherv(mine, [everything, sizes] if comm.rank == 0 else None, root=0)
    if comm.rank != 0:
        return []
    return [part.tobytes().decode() for part in np.split(everything, np.cumsum(sizes)[:-1])]


def broadcast_text(comm: MPI.Comm, text: str) -> str:
    """Collective: rank 0's text on every rank."""
    size = np.array([len(text.encode())], dtype=np.int64)
    comm.Bcast(size, root=0)
    buffer = np.zeros(int(size[0]), np.uint8)
    if comm.rank == 0:
        buffer[:] = np.frombuffer(text.encode(), np.uint8)
    comm.Bcast(buffer, root=0)
    return buffer.tobytes().decode()


def all_come(comm: MPI.Comm, seconds: float) -> bool:
    """Whether every rank has called this within so many seconds of this one; where not, comm is of no more use."""
    try:
        everyone = comm.Ibarrier()
    except MPI.Exception:
        return False
    deadline_s, came = time.monotonic() + seconds, False

    def over() -> bool:
        nonlocal came
        try:
            came = everyone.Test()
        except MPI.Exception:  # one of them has died
            return True
        return came or time.monotonic() >= deadline_s

    sleep_until(over, NAP_SECONDS)
    return came
