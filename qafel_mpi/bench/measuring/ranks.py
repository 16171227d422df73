"""What benchmarks over several ranks share: agreement on counts, and reductions of times and errors over ranks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from mpi4py import MPI

from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Agree
from qafel_mpi.config_text import ConfigError
from qafel_mpi.transport.backoff import sleep_until
from qafel_mpi.transport.exchange import broadcast_text

NAP_SECONDS = 1e-3
MOST_CORES = 4096  # of one host
REDUCTION_MAX = "the largest over the ranks"
REDUCTION_ROOT = "rank 0's"


def agree(comm: MPI.Intracomm) -> Agree:
    """Rank 0's number on every rank, for timing.interleave."""
    buffer = np.zeros(1, dtype=np.int64)

    def shared(number: int) -> int:
        buffer[0] = number
        comm.Bcast([buffer, MPI.INT64_T], 0)
        return int(buffer[0])

    return shared


def total(comm: MPI.Intracomm, count: int) -> int:
    """Collective: the sum over ranks, on every rank."""
    mine, everyone = np.array([count], dtype=np.int64), np.zeros(1, dtype=np.int64)
    comm.Allreduce([mine, MPI.INT64_T], [everyone, MPI.INT64_T])
    return int(everyone[0])


def first(comm: MPI.Intracomm, ranks: int, work: Callable[[MPI.Intracomm], Iterable[Row]]) -> Iterator[Row]:
    """Collective: the rows of the work that the first ranks do together; the others sleep till it is done."""
    some = MPI.Intracomm(comm.Split(0 if comm.rank < ranks else 1, comm.rank))
    if comm.rank < ranks:
        yield from work(some)
    some.Free()
    sleep_until(comm.Ibarrier().Test, NAP_SECONDS)


@contextmanager
def shared_folder(comm: MPI.Intracomm | None) -> Iterator[Path]:
    """Collective: one folder for the traces of all ranks, removed at the end.

    All ranks must see it, so it lies in the working folder. comm: None for one process without a launcher.
    """
    root = comm is None or comm.rank == 0
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) if root else nullcontext("") as folder:
        yield Path(folder if comm is None else broadcast_text(comm, folder))
        if comm is not None:  # rank 0 removes it when nobody reads in it any more
            sleep_until(comm.Ibarrier().Test, NAP_SECONDS)


def require(comm: MPI.Intracomm | None, bench: str, ranks: int) -> MPI.Intracomm:
    """The communicator. Raises ConfigError on every rank alike where it has too few ranks."""
    if comm is None or comm.size < ranks:
        have = 1 if comm is None else comm.size
        raise ConfigError(
            [
                f"bench {bench} needs {ranks} ranks and has {have}: start it as "
                f"`mpirun -n {ranks} qafel-mpi bench {bench} ...`"
            ]
        )
    return comm


def cores_here(comm: MPI.Intracomm) -> list[int]:
    """Collective: cores that the ranks of comm on this host may use between them, ascending."""
    return _node(comm)[1]


def crowded(comm: MPI.Intracomm) -> bool:
    """Collective: the ranks of comm on this host outnumber the cores that they may use between them."""
    size, cores = _node(comm)
    return size > len(cores)


def _node(comm: MPI.Intracomm) -> tuple[int, list[int]]:
    """Collective: (ranks of comm on this host, cores that they may use between them)."""
    mine, everyone = np.zeros(MOST_CORES, dtype=np.uint8), np.zeros(MOST_CORES, dtype=np.uint8)
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    mine[list(own)] = 1
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    node.Allreduce([mine, MPI.UINT8_T], [everyone, MPI.UINT8_T], MPI.MAX)
    size = node.size
    node.Free()
    return size, np.flatnonzero(everyone).tolist()


def powers_of_two(smallest: int, largest: int) -> list[int]:
    """Message sizes in bytes.

    >>> powers_of_two(8, 64)
    [8, 16, 32, 64]
    """
    return [2**k for k in range((smallest - 1).bit_length(), largest.bit_length())]


def pattern(size: int, seed: int) -> np.ndarray:
    """Content that a receiver can check: (size,) uint8, a function of both numbers."""
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def wrong_bytes(found: np.ndarray, wanted: Sequence[int] | np.ndarray) -> int:
    """How many bytes differ."""
    return int(np.count_nonzero(found != wanted))
