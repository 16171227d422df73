"""A data set on one host: the memory of all ranks together where each loads it, and where they share one copy.

Memory is the proportional set size (PSS) that Linux keeps for each process, in which a page that several processes
share counts once: their resident sets would count it once each. Pages of files, such as libraries, are left out. The
data are made, so that no file is read.
A sample is the time until the slowest rank has the data.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import partial
from time import perf_counter
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from qafel_mpi import tasks
from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Samples
from qafel_mpi.config import ConfigError, Experiment, load
from qafel_mpi.kernels.memory import give_freed_memory_back
from qafel_mpi.tasks import held
from qafel_mpi.transport.backoff import Backoff, wait_until
from qafel_mpi.transport.exchange import broadcast_text
from qafel_mpi.transport.placement import proportional_bytes
from qafel_mpi.transport.window import HostArrays

ROUNDS = 3  # of both ways in turns; the first one is the warm-up
SHAPE = (3, 32, 32)
EXAMPLE_BYTES = 4 * 3 * 32 * 32
COPIES, SHARED = "a copy a rank", "one copy a host"


class Loaded(NamedTuple):
    """One round of one way."""

    seconds: float  # of the slowest rank
    mb: float  # more than before, of all ranks together
    digests: set[str]


def experiment(megabytes: int) -> Experiment:
    """Images of CelebA's shape in float32, of so many MB."""
    return load(
        "digits",
        [
            "task.dataset=synthetic",
            f"task.shape={list(SHAPE)}",
            "task.classes=10",
            f"task.examples={max(1000, round(megabytes * 1e6 / EXAMPLE_BYTES))}",
            "client.local_steps=1",
        ],
    )


def rows(comm: MPI.Intracomm, megabytes: int) -> Iterator[Row]:
    """Collective; two rows on rank 0. Raises ConfigError where the ranks are on several hosts, or without PSS."""
    host = comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.rank)
    alone = host.size == comm.size
    host.Free()
    if not alone:
        raise ConfigError(["bench data: it compares the ranks of one host; start it on one"])
    if proportional_bytes() is None:
        raise ConfigError(
            ["bench data: this system keeps no Pss_Anon in /proc/self/smaps_rollup (Linux 5.0 or later)"]
        )
    chosen = experiment(megabytes)
    found: dict[str, list[Loaded]] = {COPIES: [], SHARED: []}
    for number in range(ROUNDS):
        for way in sorted(found, reverse=bool(number % 2)):  # ABBA: what drifts weighs on both alike
            found[way].append(_round(comm, chosen, way))
    if comm.rank == 0:
        yield from (_row(way, rounds, comm.size, megabytes) for way, rounds in found.items())


def _round(comm: MPI.Intracomm, chosen: Experiment, way: str) -> Loaded:
    """Collective: load the data one way, look at the memory, and give it back."""
    wait = partial(wait_until, patience_s=30.0, backoff=Backoff(crowded=True))
    before = _memory(comm)
    with HostArrays(comm, wait) as memory:
        begun_s = perf_counter()
        task = _task(chosen, memory.once if way == SHARED else held.here)
        seconds = _most(comm, perf_counter() - begun_s)
        if memory.why_not:
            raise ConfigError([f"bench data: {memory.why_not}"])
        mb = (_memory(comm) - before) / 1e6
        digest = task.data_digest
        digests = {digest} if _same(comm, digest) else {digest, "another"}
        del task
        comm.Barrier()
    gc.collect()
    return Loaded(seconds, mb, digests)


def _task(chosen: Experiment, once: held.Once) -> tasks.Task:
    """To make it reads all of its data once, for their digest: every page counts."""
    return tasks.build(chosen.task, chosen.client, seed=0, once=once)


def _memory(comm: MPI.Intracomm) -> float:
    """Collective: the proportional set size of all ranks, bytes."""
    gc.collect()
    give_freed_memory_back()
    return _over(comm, float(proportional_bytes() or 0), MPI.SUM)


def _most(comm: MPI.Intracomm, mine: float) -> float:
    return _over(comm, mine, MPI.MAX)


def _over(comm: MPI.Intracomm, mine: float, how: MPI.Op) -> float:
    found = np.zeros(1)
    comm.Allreduce(np.array([mine]), found, how)
    return float(found[0])


def _same(comm: MPI.Intracomm, text: str) -> bool:
    """Collective: whether every rank has this text."""
    return not _most(comm, float(text != broadcast_text(comm, text)))


def _row(way: str, rounds: list[Loaded], ranks: int, megabytes: int) -> Row:
    warm, *kept = rounds
    return Row(
        "data",
        {"operation": way, "ranks": ranks, "megabytes": megabytes},
        Samples(np.array([one.seconds for one in kept]), np.array([warm.seconds])),
        wrong=sum(len(one.digests) > 1 for one in rounds),
        reduction="the slowest rank's",
        derived={
            "data_mb": _data_mb(megabytes),
            "pss_mb": float(np.median([one.mb for one in kept])),
            "pss_mb_a_rank": float(np.median([one.mb for one in kept])) / ranks,
        },
    )


def _data_mb(megabytes: int) -> float:
    """All arrays that a rank reads, the test set and the partition included."""
    chosen = experiment(megabytes)
    examples = chosen.task.examples or 0
    test = min(examples // 4, 2_000)
    return ((examples + test) * (EXAMPLE_BYTES + 8) + 8 * (examples + chosen.task.population() + 1)) / 1e6
