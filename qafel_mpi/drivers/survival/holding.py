"""What clients keep from one training to the next, in a checkpoint of a wall run: it is taken at a consistent cut.

Rank 0 tells the client ranks to hold. Each comes to the end of its training, says how many updates it has sent,
and waits. When rank 0 has taken all of them nothing is under way: what the clients keep belongs to what rank 0 has.
It asks for that, writes it down, and lets them go on. A server that asks (server.pull) first waits for the answers.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from threading import RLock
from time import perf_counter
from typing import Protocol

import numpy as np
from mpi4py import MPI

from qafel_mpi.drivers.survival.deaths import Deaths
from qafel_mpi.drivers.survival.kept import Giving, Kept, gather, rows_of
from qafel_mpi.drivers.wall.senders import Senders
from qafel_mpi.transport import mortal

TAG_ORDER, TAG_HELD = 17, 18


class Order(IntEnum):
    """What rank 0 tells a client rank."""

    HOLD = 1  # after the training under way
    GIVE = 2  # what the clients keep
    GO_ON = 3


class Session(Protocol):
    """What is needed here of drivers/session.py's."""

    comm: MPI.Intracomm
    deaths: Deaths

    def wait(self, ready: Callable[[], bool], what: Callable[[], str]) -> None: ...

    def by_one(self, what: str) -> str: ...


class Holding:
    """Rank 0's side. wanted: a checkpoint is to be written; held_s: what it has cost the clients so far."""

    def __init__(self, session: Session, senders: Senders):
        self._session, self._senders, self._comm = session, senders, session.comm
        self._counts: dict[int, np.ndarray] = {}  # by rank: the updates that it says it has sent
        self._requests: dict[int, MPI.Request] = {}
        self._orders: list[tuple[MPI.Request, np.ndarray]] = []
        self._begun_s: float | None = None
        self.wanted = False

    @property
    def begun(self) -> bool:
        """The ranks have been told to hold."""
        return self._begun_s is not None

    @property
    def held_s(self) -> float:
        return 0.0 if self._begun_s is None else perf_counter() - self._begun_s

    def begin(self) -> None:
        """Tell all ranks that live to hold."""
        self._begun_s = perf_counter()
        for rank in self._senders.living:
            self._counts[rank] = np.zeros(1, np.int64)
            self._requests[rank] = self._comm.Irecv([self._counts[rank], MPI.INT64_T], rank, TAG_HELD)
        self._tell(Order.HOLD)

    def complete(self) -> bool:
        """Whether every rank that lives holds, and all that it has sent was taken. Never waits."""
        for rank, request in [*self._requests.items()]:
            try:
                done = request.Test()
            except MPI.Exception as error:
                mortal.refuse_all_but_death(error)
                done = True
            if done:
                del self._requests[rank]
        taken, living = self._senders.taken, self._senders.living
        return not self._requests and all(taken[rank] >= int(self._counts[rank][0]) for rank in living)

    def gather(self) -> np.ndarray | None:
        """What the clients of all ranks keep, as kept.rows_of gives it; None where a rank has died meanwhile."""
        ranks = self._senders.living
        self._tell(Order.GIVE)
        rows = gather(self._session.comm, ranks, self._session.wait)
        return rows if self._session.deaths.failures.gone.keys().isdisjoint(ranks) else None

    def go_on(self) -> None:
        """The checkpoint has what it needs."""
        self._tell(Order.GO_ON)
        self._counts.clear()
        self._begun_s, self.wanted = None, False

    def close(self) -> None:
        """The run ends: who still holds hears of that."""
        for request in self._requests.values():
            request.Cancel()
            mortal.finish(request)
        self._requests.clear()

    def _tell(self, order: Order) -> None:
        # What was sent before has arrived, but for ranks that have died.
        self._orders = [sent for sent in self._orders if not mortal.all_done([sent[0]])]
        for rank in self._senders.living:
            what = np.array([order], np.int64)
            self._orders.append((self._comm.Isend([what, MPI.INT64_T], rank, TAG_ORDER), what))


class Client(Protocol):
    """What is needed here of drivers/wall/client.py's."""

    lock: RLock
    uploads: int
    stopped: bool

    @property
    def session(self) -> Session: ...

    def kept(self) -> Kept: ...

    def _progress(self) -> None: ...

    def _finish_encoding(self) -> None: ...


class Held:
    """A client rank's side."""

    def __init__(self, client: Client):
        self._client, comm = client, client.session.comm
        self._order, self._count = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self._receive = comm.Recv_init([self._order, MPI.INT64_T], 0, TAG_ORDER)
        self._send = comm.Send_init([self._count, MPI.INT64_T], 0, TAG_HELD)
        self._receive.Start()
        self._giving = Giving(comm)
        self._told: int | None = None

    @property
    def asked(self) -> bool:
        """Rank 0 waits for this rank to `hold`."""
        return self._told is not None and not self._client.stopped

    def look(self) -> None:
        """With the client's other messages, one thread at a time. Never waits."""
        if self._told is None and self._receive.Test():
            self._told = int(self._order[0])
            self._receive.Start()

    def hold(self) -> None:
        """Between two trainings: say so, give what the clients keep, and wait until rank 0 goes on or ends."""
        c = self._client
        self._told = None
        with c.lock:
            c._finish_encoding()
            self._send.Wait()  # the answer before: rank 0 has had it, or it would not ask again
            self._count[0] = c.uploads
            self._send.Start()
        while self._next() == Order.GIVE:
            with c.lock:
                self._giving.give(rows_of(c.kept()))

    def _next(self) -> int | None:
        c = self._client

        def told() -> bool:
            c._progress()
            return c.stopped or self._told is not None

        c.session.wait(told, lambda: c.session.by_one("rank 0 to write a checkpoint"))
        told_, self._told = self._told, None
        return told_

    def close(self) -> None:
        """At the end of a run: rank 0 tells nothing more."""
        self._giving.close()
        self._send.Wait()
        self._receive.Cancel()
        mortal.finish(self._receive)
        self._receive.Free()
        self._send.Free()


class NeverHeld:
    """Of a client rank whose clients keep nothing."""

    asked = False

    def look(self) -> None:
        """Nobody asks."""

    def hold(self) -> None:
        """Nobody asks."""

    def close(self) -> None:
        """Nothing is open."""
