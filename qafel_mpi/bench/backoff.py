"""Two ranks: what waiting costs the one who waits and its neighbour, with our back-off and with two plain ways.

Ways to wait: ours (transport/backoff.py), a fixed sleep between polls, and busy polling, each on the whole message
path. Once with a core for each rank (apart), once with both on one core (shared), where ranks outnumber cores.

round trip: 15 kB there and back.
late answer: the same, answered after 5 ms of computing: what a message costs that comes when the waiting rank has
    long backed off. The 5 ms are not counted.
idle: processor time that the waiting rank burns until a message comes after 50 ms of silence.
neighbour: a fixed computation of rank 1 while rank 0 waits for its result, against nobody waiting.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter

import numpy as np
from mpi4py import MPI

from qafel_mpi.bench.measuring.paths import OurPath, exchange
from qafel_mpi.bench.measuring.ranks import REDUCTION_ROOT, agree, cores_here, pattern, total, wrong_bytes
from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Case, Limits, interleave
from qafel_mpi.transport.backoff import Backoff

BYTES = 15_000  # an upload of the paper's CNN
LATE_SECONDS = 5e-3
IDLE_SECONDS = 50e-3
SLEEP_SECONDS = 500e-6  # the fixed sleep: as long as ours becomes at most
WORK = 300_000  # numbers that the neighbour adds up in a sample: some milliseconds
ASIDE_SECONDS = 50e-3  # how long rank 0 is gone for the reference: longer than that takes
OURS, SLEEP, BUSY = "ours", "sleep", "busy polling"
ALONE = "the same with nobody waiting"
APART, SHARED = "apart", "shared"
RANK_1 = "rank 1's"


class BusyPolling(Backoff):
    """Polls without pause."""

    def pause(self) -> None:
        pass


class FixedSleep(Backoff):
    """Sleeps between any two polls."""

    def pause(self) -> None:
        time.sleep(SLEEP_SECONDS)


def rows(comm: MPI.Intracomm, limits: Limits, say: Callable[[str], None]) -> Iterator[Row]:
    """Collective over both ranks of comm. say: takes a line about what can't be measured here."""
    cores = cores_here(comm)
    for placed, wanted in ((APART, cores[:2]), (SHARED, cores[:1] * 2)):
        with _bound(comm, wanted) as bound:
            if bound:
                yield from _placed(comm, limits, placed)
            elif comm.rank == 0:
                say(f"back-off with cores {placed}: not measured, because the ranks can't be bound this way")


@contextmanager
def _bound(comm: MPI.Intracomm, cores: Sequence[int]) -> Iterator[bool]:
    """Collective: rank r on cores[r] meanwhile. Gives whether that could be done."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    failed = len(cores) < comm.size or not before
    if not failed:
        try:
            os.sched_setaffinity(0, {cores[comm.rank]})
        except OSError:  # a batch system's cpuset
            failed = True
    try:
        yield not total(comm, int(failed))
    finally:
        if before:
            os.sched_setaffinity(0, before)


def _placed(comm: MPI.Intracomm, limits: Limits, placed: str) -> Iterator[Row]:
    wanted = pattern(BYTES, 1 - comm.rank)
    paths = _paths(comm, crowded=placed == SHARED)
    wrong = sum(
        wrong_bytes(found, wanted) for path in paths.values() for found in exchange(path, comm.rank == 0)
    )
    found: list[Row] = []
    for operation, loops, case, against in _operations(comm, shared=placed == SHARED):
        cases = {name: case(path) for name, path in paths.items()}
        if against == ALONE:
            cases[ALONE] = _computing(comm, None)
        samples = interleave(cases, limits, loops=loops, agree=agree(comm))
        for way in paths:
            if way == against:
                continue
            row = Row(
                "backoff",
                {"operation": operation, "cores": placed, "waits": way},
                samples[way],
                samples[against],
                against,
                reduction=RANK_1 if against == ALONE else REDUCTION_ROOT,
                derived={"core_share": samples[way].median / IDLE_SECONDS} if operation == "idle" else {},
            )
            found.append(row)
    wrong += sum(wrong_bytes(path.last, wanted) for path in paths.values())  # the last messages, at both ends
    for path in paths.values():
        path.close()
    wrong = total(comm, wrong)
    yield from (replace(row, wrong=wrong) for row in found)


def _paths(comm: MPI.Intracomm, *, crowded: bool) -> dict[str, OurPath]:
    ways = {OURS: Backoff, SLEEP: FixedSleep, BUSY: BusyPolling}
    paths = {}
    for name, way in ways.items():
        paths[name] = OurPath(comm, 1 - comm.rank, pattern(BYTES, comm.rank), window=2)
        paths[name].backoff = way(crowded=crowded)
    return paths


def _operations(
    comm: MPI.Intracomm, *, shared: bool
) -> list[tuple[str, int, Callable[[OurPath], Case], str]]:
    """(operation, loops of a sample, its case on a path, what it is held against)."""
    loops = 1 if shared else 10

    def late() -> None:
        until_s = perf_counter() + LATE_SECONDS
        while perf_counter() < until_s:
            pass

    return [
        ("round trip", loops, lambda path: _answered(comm, path, lambda: None, loops=loops), BUSY),
        ("late answer", 1, lambda path: _answered(comm, path, late, less_s=LATE_SECONDS), BUSY),
        (
            "idle",
            1,
            lambda path: _answered(comm, path, lambda: time.sleep(IDLE_SECONDS), clock=time.process_time),
            BUSY,
        ),
        ("neighbour", 1, lambda path: _computing(comm, path), ALONE),
    ]


def _answered(
    comm: MPI.Intracomm,
    path: OurPath,
    between: Callable[[], object],
    *,
    loops: int = 1,
    less_s: float = 0.0,
    clock: Callable[[], float] = perf_counter,
) -> Case:
    """Seconds of rank 0's clock for a message and its answer, less `less_s`; rank 1 does `between` in between."""

    def asks() -> float:
        begun = clock()
        for _ in range(loops):
            path.send(1)
            path.receive(1)
        return (clock() - begun) / loops - less_s

    def answers() -> float:
        for _ in range(loops):
            path.receive(1)
            between()
            path.send(1)
        return 0.0

    return asks if comm.rank == 0 else answers


def _computing(comm: MPI.Intracomm, path: OurPath | None) -> Case:
    """Seconds that rank 1 takes for WORK, while rank 0 waits for its answer; None: while rank 0 sleeps."""
    taken = np.zeros(1)

    def asks() -> float:
        if path is None:
            comm.Send([taken, MPI.DOUBLE], 1)
            time.sleep(ASIDE_SECONDS)
        else:
            path.send(1)
            path.receive(1)
        comm.Recv([taken, MPI.DOUBLE], 1)
        return float(taken[0])

    def computes() -> float:
        if path is None:
            comm.Recv([taken, MPI.DOUBLE], 0)
        else:
            path.receive(1)
        begun = perf_counter()
        sum(range(WORK))
        taken[0] = perf_counter() - begun
        if path is not None:
            path.send(1)
        comm.Send([taken, MPI.DOUBLE], 0)
        return 0.0

    return asks if comm.rank == 0 else computes
