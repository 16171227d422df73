"""Two ranks: what share of a transfer happens while rank 0 computes and makes no MPI call of its own.

send: rank 0 posts a message, computes, and waits until rank 1 has said that it has all of it. receive: rank 0 posts a
receive, asks rank 1 for the message, computes, and waits for it. Rank 1 is inside MPI all the time, so what does not
move lacks a call of rank 0.
poll: rank 0 calls nothing before its computation is done, as a client between two of its SGD steps. thread: a thread
beside the computation looks as often as a client's does with transport.progress = "thread".

A sample is the time of the computation with the transfer under it; its reference is the same computation and then the
transfer. moved_share: how much shorter the wait after the computation is than a whole transfer, round by round. What
a wait for nothing takes is no part of it. What moves at the computation's cost, on the same core, is: the
ratio shows what is gained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from threading import Event, Lock, Thread
from time import perf_counter

import numpy as np
import torch
from mpi4py import MPI

from qafel_mpi.bench.measuring.ranks import REDUCTION_ROOT, agree, crowded, pattern, total, wrong_bytes
from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import (
    Case,
    Limits,
    Samples,
    calibrate,
    interleave,
    median_interval,
    timed,
)
from qafel_mpi.kernels.aligned import aligned_bytes
from qafel_mpi.transport.placement import mpi_library

OPERATIONS = ("send", "receive")
LOOKS = ("poll", "thread")
REFERENCE = "the same computation, and the transfer after it"
AFTER, NOTHING = "after", "nothing"  # what was waited for after a computation: a transfer, or none
LEAST_SECONDS = 20e-3  # of a computation: about an SGD step of the paper's CNN
TRANSFERS = 2  # a computation lasts at least so many of them
TRIALS = 5  # that say how long a transfer and a product take
WIDTH = 128  # of the matrices that are multiplied: they lie in a core's cache
TAG, TAG_SMALL = 23, 24


def rows(
    comm: MPI.Intracomm, limits: Limits, sizes: Sequence[int], look_s: float, say: Callable[[str], None]
) -> Iterator[Row]:
    """Collective over both ranks of comm. sizes: payload bytes. look_s: how often the thread looks.
    say: takes a line about what can't be measured here."""
    torch.set_num_threads(1)
    looks = LOOKS if MPI.Query_thread() >= MPI.THREAD_SERIALIZED else LOOKS[:1]
    if comm.rank == 0 and len(looks) < len(LOOKS):
        say("thread: not measured, because this MPI library provides less than MPI_THREAD_SERIALIZED")
    if crowded(comm) and comm.rank == 0:
        say("the two ranks share a core: what moves takes time from the computation")
    compute = Computation()
    for operation in OPERATIONS:
        for size in sizes:
            yield from _rows(comm, limits, Transfer(comm, operation, size), looks, look_s, compute)


class Computation:
    """Matrix products, with no call of MPI and without Python's lock."""

    def __init__(self) -> None:
        self._x = torch.full((WIDTH, WIDTH), 0.5)
        self._out = torch.empty(WIDTH, WIDTH)
        loops = calibrate(self._once, least_s=1e-3)
        self._once_s = min(timed(self._once, loops)() for _ in range(TRIALS))

    def _once(self) -> None:
        torch.mm(self._x, self._x, out=self._out)

    def loops(self, seconds: float) -> int:
        """So many that they take about so long."""
        return math.ceil(seconds / self._once_s)

    def run(self, loops: int) -> None:
        for _ in range(loops):
            self._once()


class Transfer:
    """One message between ranks 0 and 1, which begins and ends with a call of rank 0."""

    def __init__(self, comm: MPI.Intracomm, operation: str, size: int):
        """operation: of OPERATIONS, what rank 0 does."""
        self.comm, self.operation, self.size = comm, operation, size
        self.sends = (operation == "send") == (comm.rank == 0)
        self.buffer = aligned_bytes(size)
        self._empty = np.zeros(0, dtype=np.uint8)
        self._wanted = pattern(size, 0)  # the same at both ends
        if self.sends:
            self.buffer[:] = self._wanted

    def post(self) -> list[MPI.Request]:
        """Rank 0: begin. It is over when all requests are done."""
        if self.sends:
            done = self.comm.Irecv([self._empty, MPI.BYTE], 1, TAG_SMALL)
            return [self.comm.Isend([self.buffer, MPI.BYTE], 1, TAG), done]
        posted = self.comm.Irecv([self.buffer, MPI.BYTE], 1, TAG)
        return [posted, self.comm.Isend([self._empty, MPI.BYTE], 1, TAG_SMALL)]

    def wait_for_nothing(self) -> None:
        """What rank 0 calls at the end, with messages to and from nobody."""
        nobody = (MPI.PROC_NULL, TAG)
        requests = [
            self.comm.Irecv([self._empty, MPI.BYTE], *nobody),
            self.comm.Isend([self._empty, MPI.BYTE], *nobody),
        ]
        MPI.Request.Waitall(requests)

    def other_end(self) -> float:
        """Rank 1, from before rank 0 posts until it has all: inside MPI."""
        if self.sends:
            asked = self.comm.Irecv([self._empty, MPI.BYTE], 0, TAG_SMALL)
            self.comm.Barrier()
            asked.Wait()
            self.comm.Send([self.buffer, MPI.BYTE], 0, TAG)
        else:
            posted = self.comm.Irecv([self.buffer, MPI.BYTE], 0, TAG)
            self.comm.Barrier()
            posted.Wait()
            self.comm.Send([self._empty, MPI.BYTE], 0, TAG_SMALL)
        return 0.0

    def wrong(self) -> int:
        """Collective: bytes of a transfer that are not what was sent."""
        if not self.sends:
            self.buffer[:] = ~self._wanted
        if self.comm.rank == 0:
            self.comm.Barrier()
            MPI.Request.Waitall(self.post())
        else:
            self.other_end()
        return total(self.comm, wrong_bytes(self.buffer, self._wanted))


class Looker:
    """A thread that tests the requests that it is handed every so often, and does nothing while it has none."""

    def __init__(self, every_s: float):
        self._every_s, self._end, self._lock = every_s, Event(), Lock()
        self._requests: list[MPI.Request] = []
        self._thread = Thread(target=self._loop, daemon=True)

    def hand(self, requests: list[MPI.Request]) -> None:
        """After that nobody else may touch them; with [] the thread lets go of what it has."""
        with self._lock:
            self._requests = requests

    def __enter__(self) -> Looker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._end.wait(self._every_s):
            with self._lock:
                if self._requests and MPI.Request.Testall(self._requests):
                    self._requests = []


class Timed:
    """Rank 0's cases, and what each sample of one waited for."""

    def __init__(self, transfer: Transfer, compute: Computation, looker: Looker | None):
        self.transfer, self.compute, self.looker = transfer, compute, looker
        self.loops = 0
        self.waits: dict[str, list[float]] = {name: [] for name in (*LOOKS, AFTER, NOTHING)}

    def under(self, look: str) -> float:
        """The transfer under the computation."""
        looker = self.looker if look == "thread" else None
        self.transfer.comm.Barrier()
        begun = perf_counter()
        requests = self.transfer.post()
        if looker is not None:
            looker.hand(requests)
        self.compute.run(self.loops)
        if looker is not None:
            looker.hand([])
        computed = perf_counter()
        MPI.Request.Waitall(requests)
        ended = perf_counter()
        self.waits[look].append(ended - computed)
        return ended - begun

    def after(self) -> float:
        """The computation, and then the transfer."""
        self.transfer.comm.Barrier()
        begun = perf_counter()
        self.compute.run(self.loops)
        computed = perf_counter()
        self.transfer.wait_for_nothing()
        waited = perf_counter()
        MPI.Request.Waitall(self.transfer.post())
        ended = perf_counter()
        self.waits[NOTHING].append(waited - computed)
        self.waits[AFTER].append(ended - waited)
        return ended - begun

    def computation_s(self) -> float:
        """Of a sample, by how long a transfer takes here that nothing disturbs."""
        for _ in range(TRIALS):
            self.after()
        return max(LEAST_SECONDS, TRANSFERS * min(self.waits[AFTER]))


def _rows(
    comm: MPI.Intracomm,
    limits: Limits,
    transfer: Transfer,
    looks: Sequence[str],
    look_s: float,
    compute: Computation,
) -> list[Row]:
    wrong = transfer.wrong()
    with ExitStack() as stack:
        if comm.rank == 0:
            looker = stack.enter_context(Looker(look_s)) if "thread" in looks else None
            ours = Timed(transfer, compute, looker)
            ours.loops = compute.loops(ours.computation_s())
            cases: dict[str, Case] = {look: _under(ours, look) for look in looks} | {AFTER: ours.after}
        else:
            for _ in range(TRIALS):
                transfer.other_end()
            cases = dict.fromkeys((*looks, AFTER), transfer.other_end)
        samples = interleave(cases, limits, agree=agree(comm))
    wrong += transfer.wrong()
    if comm.rank != 0:
        return [_row(transfer, look, samples, None, wrong) for look in looks]
    return [_row(transfer, look, samples, ours.waits, wrong) for look in looks]


def _under(ours: Timed, look: str) -> Case:
    return lambda: ours.under(look)


def _row(
    transfer: Transfer,
    look: str,
    samples: Mapping[str, Samples],
    waits: Mapping[str, Sequence[float]] | None,
    wrong: int,
) -> Row:
    return Row(
        "progress",
        {"operation": transfer.operation, "bytes": transfer.size, "looks": look, "library": mpi_library()},
        samples[look],
        samples[AFTER],
        REFERENCE,
        wrong=wrong,
        reduction=REDUCTION_ROOT,
        derived={}
        if waits is None
        else shares(len(samples[look].values), waits[look], waits[AFTER], waits[NOTHING]),
    )


def shares(
    count: int, waited: Sequence[float], transfers: Sequence[float], nothing: Sequence[float]
) -> dict[str, float | list[float]]:
    """Of the last `count` rounds. waited: seconds after a computation with a transfer under it; transfers: of whole
    ones; nothing: of a wait for nothing.

    >>> found = shares(2, [9.0, 0.2, 0.2], [9.0, 9.0, 0.5, 0.5], [9.0, 0.1, 0.1])
    >>> found["moved_share"], found["transfer_us"], found["wait_us"]
    (0.8, 500000.0, 200000.0)
    """
    left, whole, least = (np.array(seconds[-count:]) for seconds in (waited, transfers, nothing))
    moved = 1 - np.maximum(left - np.median(least), 0) / whole
    return {
        "moved_share": float(np.median(moved)),
        "moved_share_ci95": list(median_interval(moved)),
        "transfer_us": 1e6 * float(np.median(whole)),
        "wait_us": 1e6 * float(np.median(left)),
    }
