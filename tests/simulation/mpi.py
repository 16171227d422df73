"""As much of MPI as the transport uses, among ranks of a World, with a delay and, on request, a fault a message.

What holds of MPI holds here: messages of one sender with one tag match in the order sent; a synchronous send
completes when it is matched, or later; a message may complete after one that was matched behind it; a receive from
any source takes whichever message is there. Nothing else is promised: how long a message takes is drawn.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI

from tests.simulation.world import World

POISON = 0xA5
REPLACED = ("frames", "fanout", "tree", "ibcast", "broadcast")  # modules of the transport that know MPI


class Status:
    """Of a receive that has completed."""

    def __init__(self) -> None:
        self.source, self.size = -1, 0

    def Get_count(self, datatype: object) -> int:
        return self.size

    def Get_source(self) -> int:
        return self.source


@dataclass(eq=False)
class Letter:
    """A message under way. fault: what is done to it when it arrives.

    buffer: the sender's, which it may not touch until the send completes; data: what it held when it was posted.
    """

    source: int
    buffer: np.ndarray
    data: np.ndarray
    arrives_s: float
    takes_s: float  # from the match until it is there
    request: Request | None
    fault: str = ""


class Request:
    """Of a send, a receive or a collective."""

    def __init__(self, world: World, start: Callable[[Request], None] | None):
        self.world, self._start = world, start
        self.active = self.matched = False
        self.done_s = float("inf")
        self.status = Status()
        self.buffer: np.ndarray | None = None
        self.key: tuple[int, int, int, int] = (0, 0, 0, 0)
        if start is None:
            self.active = True

    def Start(self) -> None:
        assert not self.active, "a request that is under way is started again"
        assert self._start is not None
        self.active, self.matched, self.done_s = True, False, float("inf")
        self._start(self)

    def complete(self) -> bool:
        return self.active and self.done_s <= self.world.now

    def finish(self, status: Status | None) -> None:
        self.active = False
        if status is not None:
            status.source, status.size = self.status.source, self.status.size

    def Test(self, status: Status | None = None) -> bool:
        self.world.call()
        if not self.active:
            return True
        if not self.complete():
            return False
        self.finish(status)
        return True

    def Cancel(self) -> None:
        assert not self.matched, "a receive is cancelled that a message has matched"
        self.done_s = self.world.now

    def Wait(self) -> None:
        while not self.Test():
            self.world.sleep(1e-5)

    def Free(self) -> None:
        assert not self.active, "a request is freed that is under way"

    @staticmethod
    def Testsome(requests: list[Request], statuses: list[Status] | None = None) -> list[int] | None:
        if not requests or not any(request.active for request in requests):
            return None
        requests[0].world.call()
        done = [i for i, request in enumerate(requests) if request.complete()]
        for k, i in enumerate(done):
            requests[i].finish(None if statuses is None else statuses[k])
        return done

    @staticmethod
    def Testall(requests: list[Request]) -> bool:
        requests[0].world.call()
        if all(request.complete() or not request.active for request in requests):
            for request in requests:
                request.finish(None)
            return True
        return False


class Network:
    """The messages under way among the ranks of a world.

    latency_s: seconds that a message takes at the most, drawn for each. slow: how much longer it takes to a rank.
    fault: given a message (source, destination, its bytes), what happens to it: "", "damaged" or "lost".
    """

    def __init__(
        self,
        world: World,
        *,
        latency_s: float,
        fault: Callable[[int, int, np.ndarray], str] = lambda source, to, data: "",
        look: Callable[[int, int, np.ndarray], None] = lambda source, to, data: None,
    ):
        self.world, self.latency_s, self.fault, self.look = world, latency_s, fault, look
        # By (communicator, source, destination, tag), in the order sent.
        self._letters: dict[tuple[int, int, int, int], deque[Letter]] = defaultdict(deque)
        # By (communicator, destination, tag), in the order posted.
        self._receives: dict[tuple[int, int, int], list[Request]] = defaultdict(list)
        self._collectives: dict[tuple[int, str], list[dict[int, Request]]] = defaultdict(list)
        self._calls: dict[tuple[int, str, int], int] = defaultdict(int)
        self.faults = 0
        world.move = self.move

    def comm(self, rank: int) -> Comm:
        return Comm(self, rank, 0)

    def draw(self) -> float:
        return self.world.random.random() ** 3 * self.latency_s  # most are quick, some are late

    def send(self, comm: int, source: int, to: int, tag: int, buffer: np.ndarray, request: Request) -> None:
        data = buffer.copy()
        letter = Letter(source, buffer, data, self.world.now + self.draw(), self.draw(), request)
        letter.fault = self.fault(source, to, data)
        self.faults += bool(letter.fault)
        self.look(source, to, data)
        letters = self._letters[comm, source, to, tag]
        if letter.fault == "lost":
            request.done_s = letter.arrives_s  # its sender sees nothing
        else:
            letters.append(letter)

    def receive(self, comm: int, to: int, source: int, tag: int, request: Request) -> None:
        request.key = (comm, to, tag, source)
        self._receives[comm, to, tag].append(request)

    def cancelled(self, request: Request) -> None:
        comm, to, tag, _ = request.key
        self._receives[comm, to, tag].remove(request)

    def move(self) -> float:
        """Match what has arrived; when something arrives or completes next."""
        now, next_s = self.world.now, float("inf")
        for (comm, source, to, tag), letters in self._letters.items():
            while letters:
                letter = letters[0]
                if letter.arrives_s > now:
                    next_s = min(next_s, letter.arrives_s)
                    break
                posted = self._receives[comm, to, tag]
                request = next((r for r in posted if r.key[3] in (source, MPI.ANY_SOURCE)), None)
                if request is None:
                    break
                posted.remove(request)
                letters.popleft()
                self._deliver(letter, request)
                next_s = min(next_s, request.done_s)
        return next_s

    def _deliver(self, letter: Letter, request: Request) -> None:
        data, buffer = letter.data, request.buffer
        assert buffer is not None
        assert np.array_equal(letter.buffer, data), "a buffer was changed while MPI sent it"
        assert data.size <= buffer.size, f"{data.size} bytes for a receive of {buffer.size}"
        buffer[: data.size] = data
        if letter.fault == "damaged":
            at = self.world.random.randrange(data.size)
            buffer[at] ^= 1 << self.world.random.randrange(8)
        request.matched = True
        request.status.source, request.status.size = letter.source, data.size
        request.done_s = self.world.now + letter.takes_s
        if (
            letter.request is not None
        ):  # matched, which is all that a synchronous send waits for; or there, too
            letter.request.done_s = self.world.now + self.world.random.choice([0.0, letter.takes_s])

    def enter(self, comm: int, kind: str, rank: int, request: Request, size: int) -> None:
        """A collective: the k-th call of each rank belongs together."""
        k = self._calls[comm, kind, rank]
        self._calls[comm, kind, rank] += 1
        calls = self._collectives[comm, kind]
        while len(calls) <= k:
            calls.append({})
        calls[k][rank] = request
        if kind == "barrier":
            if len(calls[k]) == size:
                for each in calls[k].values():
                    each.done_s = self.world.now + self.draw()
        elif 0 in calls[k]:
            root = calls[k][0]
            for other in calls[k].values() if rank == 0 else [request]:
                other.done_s = self.world.now + self.draw()
                if other is not root:
                    assert other.buffer is not None
                    assert root.buffer is not None
                    # What the root's buffer held when it called: it is free again as soon as its call completes.
                    other.buffer[:] = root.status.data  # type: ignore[attr-defined]

    def left(self) -> int:
        """Messages that nobody has received."""
        return sum(len(letters) for letters in self._letters.values())


class Comm:
    """A communicator, as one rank sees it."""

    def __init__(self, network: Network, rank: int, number: int):
        self.network, self.rank, self.number = network, rank, number
        self.size = network.world.ranks
        self._dups = 0

    def Dup(self) -> Comm:
        self._dups += 1
        return Comm(self.network, self.rank, self.number * 16 + self._dups)

    def Free(self) -> None:
        """Nothing is kept."""

    def Recv_init(self, spec: list[Any], source: int, tag: int) -> Request:
        def start(request: Request) -> None:
            assert request.buffer is not None
            request.buffer[:] = POISON  # whoever still reads it has released it too early
            self.network.world.call()
            self.network.receive(self.number, self.rank, source, tag, request)

        request = Request(self.network.world, start)
        request.buffer = np.asarray(spec[0])
        cancel = request.Cancel

        def withdraw() -> None:
            cancel()
            self.network.cancelled(request)

        request.Cancel = withdraw  # type: ignore[method-assign]
        return request

    def Ssend_init(self, spec: list[Any], to: int, tag: int) -> Request:
        def start(request: Request) -> None:
            self.network.send(self.number, self.rank, to, tag, np.asarray(spec[0]), request)

        return Request(self.network.world, start)

    def Issend(self, spec: list[Any], to: int, tag: int) -> Request:
        request = self.Ssend_init(spec, to, tag)
        request.Start()
        return request

    def Ibarrier(self) -> Request:
        request = Request(self.network.world, None)
        self.network.enter(self.number, "barrier", self.rank, request, self.size)
        return request

    def Ibcast(self, spec: list[Any], root: int) -> Request:
        assert root == 0
        request = Request(self.network.world, None)
        request.buffer = np.asarray(spec[0])
        if self.rank == 0:
            request.status.data = request.buffer.copy()  # type: ignore[attr-defined]
        self.network.enter(self.number, "broadcast", self.rank, request, self.size)
        return request


class Library:
    """What the transport's modules take from mpi4py.MPI."""

    Request, Status = Request, Status
    ANY_SOURCE, BYTE = MPI.ANY_SOURCE, MPI.BYTE


@contextmanager
def simulated_mpi() -> Iterator[None]:
    """The transport's modules call this MPI in place of the real one."""
    import importlib

    modules = [importlib.import_module(f"qafel_mpi.transport.{name}") for name in REPLACED]
    try:
        for module in modules:
            module.__dict__["MPI"] = Library
        yield
    finally:
        for module in modules:
            module.__dict__["MPI"] = MPI
