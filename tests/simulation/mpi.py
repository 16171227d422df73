"""As much of MPI as the transport uses, among ranks of a World, with a delay and, on request, a fault a message.

What holds of MPI holds here: messages of one sender with one tag match in the order sent; a synchronous send
completes when it is matched, or later; a message may complete after one that was matched behind it; a receive from
any source takes whichever message is there. Nothing else is promised: how long a message takes is drawn.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from mpi4py import MPI

from qafel_mpi.transport import mortal
from tests.simulation.world import World

POISON = 0xA5
NOTICED_SECONDS = 0.02  # until others know of a death, at the most
REPLACED = (
    "frames",
    "inbox",
    "fanout",
    "tree",
    "ibcast",
    "broadcast",
    "mortal",
    "failures",
)  # modules of the transport that know MPI


class Failure(Exception):
    """Of a call that concerns a rank that has died: mpi4py's Exception."""

    def __init__(self, error_class: int):
        super().__init__(f"error class {error_class}")
        self._class = error_class

    def Get_error_class(self) -> int:
        return self._class


class Group(list[int]):
    """Ranks of a communicator."""

    def Get_size(self) -> int:
        return len(self)

    def Free(self) -> None:
        """Nothing is kept."""

    @staticmethod
    def Translate_ranks(group: Group, indices: list[int], other: Group) -> list[int]:
        return [other.index(group[i]) for i in indices]


class Status:
    """Of a receive that has completed."""

    def __init__(self) -> None:
        self.source, self.size = -1, 0

    def Get_count(self, datatype: object) -> int:
        return self.size

    def Set_source(self, source: int) -> None:
        self.source = source

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
        self.fails: Callable[[], int] = lambda: (
            0
        )  # the error class that it ends with, if it has not completed
        # Open MPI says once more with the message that completes it that a receive was pending (findings/).
        self.pending = False
        if start is None:
            self.active = True

    def Start(self) -> None:
        assert not self.active, "a request that is under way is started again"
        assert self._start is not None
        self.active, self.matched, self.pending, self.done_s = True, False, False, float("inf")
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
            if status is not None:
                status.source, status.size = -1, 0
            return True
        if not self.complete():
            if error_class := self.fails():
                self.pending = error_class == mortal.PENDING
                raise Failure(error_class)
            return False
        self.finish(status)
        if self.pending:
            raise Failure(mortal.PENDING)
        return True

    def Get_status(self, status: Status) -> bool:
        """Test, which leaves a request that has completed as it is."""
        self.world.call()
        if self.active and not self.complete():
            if error_class := self.fails():
                raise Failure(error_class)
            return False
        status.source, status.size = (self.status.source, self.status.size) if self.active else (-1, 0)
        return True

    def Cancel(self) -> None:
        if self.matched and self.status.source in self.world.died:
            return  # half of a message of a rank that has died: it comes to its end, or fails
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
        self.matched: list[Request] = []  # receives that a message is coming into
        # By (communicator, source, destination, tag), in the order sent.
        self._letters: dict[tuple[int, int, int, int], deque[Letter]] = defaultdict(deque)
        # By (communicator, destination, tag), in the order posted.
        self._receives: dict[tuple[int, int, int], list[Request]] = defaultdict(list)
        self._collectives: dict[tuple[int, str], list[dict[int, Request]]] = defaultdict(list)
        self._calls: dict[tuple[int, str, int], int] = defaultdict(int)
        self.faults = 0
        self.known_s: dict[int, float] = {}  # when the others know of a rank's death
        self.acknowledged: dict[tuple[int, int], int] = defaultdict(int)  # deaths, by communicator and rank
        world.move, world.buried = self.move, self.bury

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

    def dead(self) -> list[int]:
        """The ranks of whose death the others know."""
        return [rank for rank, known_s in self.known_s.items() if known_s <= self.world.now]

    def bury(self, rank: int) -> None:
        """What a rank that dies was sending may come, may not come, or may come in part."""
        random = self.world.random
        self.known_s[rank] = self.world.now + random.random() * NOTICED_SECONDS
        for (_, source, to, _), letters in self._letters.items():
            if source == rank:
                kept = [letter for letter in letters if random.random() < 0.5]
                for letter in letters:
                    letter.buffer = letter.data  # nobody holds it any more
                letters.clear()
                letters.extend(kept)
            if to == rank:
                letters.clear()
        for (_, to, _), receives in self._receives.items():
            if to == rank:
                receives.clear()
        for request in self.matched:
            under_way = request.matched and request.active and request.done_s > self.world.now
            if under_way and request.status.source == rank:
                request.done_s = float("inf")
                request.fails = lambda request=request: self.fail(request, mortal.FAILED)  # type: ignore[misc]

    def fail(self, request: Request, error_class: int) -> int:
        """The request has ended, and is not active any more."""
        request.active = False
        if any(request in receives for receives in self._receives.values()):
            self.cancelled(request)
        return error_class

    def failure(self, comm: int, rank: int, peer: int, request: Request) -> int:
        """The error class that a request of this rank, to or from a peer, ends with now; 0 for none."""
        dead = self.dead()
        if peer in dead:
            return self.fail(request, mortal.FAILED)
        if peer == MPI.ANY_SOURCE and not request.matched and len(dead) > self.acknowledged[comm, rank]:
            # The library leaves it posted, or not.
            left = self.world.random.random() < 0.5
            return mortal.PENDING if left else self.fail(request, mortal.PENDING)
        return 0

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
        self.matched = [r for r in self.matched if r.active and r.done_s > self.world.now] + [request]
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

    def left(self, ranks: Collection[int]) -> int:
        """Messages among these ranks that nobody has received."""
        return sum(
            len(letters)
            for (_, source, to, _), letters in self._letters.items()
            if source in ranks and to in ranks
        )


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
            request.fails = lambda: self.network.failure(self.number, self.rank, source, request)
            self.network.receive(self.number, self.rank, source, tag, request)

        request = Request(self.network.world, start)
        request.buffer = np.asarray(spec[0]).view(np.uint8)
        cancel = request.Cancel

        def withdraw() -> None:
            if request.active:
                cancel()
                if not request.matched:
                    self.network.cancelled(request)

        request.Cancel = withdraw  # type: ignore[method-assign]
        return request

    def Ssend_init(self, spec: list[Any], to: int, tag: int) -> Request:
        def start(request: Request) -> None:
            request.fails = lambda: self.network.failure(self.number, self.rank, to, request)
            self.network.send(self.number, self.rank, to, tag, np.asarray(spec[0]).view(np.uint8), request)

        return Request(self.network.world, start)

    def Send_init(self, spec: list[Any], to: int, tag: int) -> Request:
        """As Ssend_init: MPI may wait for the receiver, so a program must end also where it does."""
        return self.Ssend_init(spec, to, tag)

    def Issend(self, spec: list[Any], to: int, tag: int) -> Request:
        request = self.Ssend_init(spec, to, tag)
        request.Start()
        return request

    def Get_group(self) -> Group:
        return Group(range(self.size))

    def Get_failed(self) -> Group:
        return Group(self.network.dead())

    def Ack_failed(self, count: int) -> int:
        self.network.acknowledged[self.number, self.rank] = count
        return count

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

    Request, Status, Group, Exception = Request, Status, Group, Failure
    ANY_SOURCE, BYTE = MPI.ANY_SOURCE, MPI.BYTE


@contextmanager
def simulated_mpi(*, survives: bool = False) -> Iterator[None]:
    """The transport's modules call this MPI in place of the real one. survives: a rank's death."""
    import importlib

    real, mortal.survives = mortal.survives, cache(lambda: survives)
    modules = [importlib.import_module(f"qafel_mpi.transport.{name}") for name in REPLACED]
    try:
        for module in modules:
            module.__dict__["MPI"] = Library
        yield
    finally:
        mortal.survives = real
        for module in modules:
            module.__dict__["MPI"] = MPI
