"""Rank 0's view of who takes part in a wall run: client ranks die, and their clients move to ranks that live.

A spare rank takes all of them, where there is one; else the ranks that host clients share them.

Rank 0 alone decides which client moves where, and tells each rank in its ordered stream. A client goes on with the
participation behind the last one that rank 0 has received: one that was under way is trained again. What a client
keeps between participations (a residual, a model of its own) is lost with the rank, and begins anew.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np

from qafel_mpi.drivers.survival.wall import Server as Kept
from qafel_mpi.drivers.survival.wall import WallCheckpoints
from qafel_mpi.drivers.wall.questions import Questions
from qafel_mpi.schedule.hosting import Hosting, Turns
from qafel_mpi.transport.backoff import some_ranks
from qafel_mpi.transport.broadcast import Root
from qafel_mpi.transport.fanout import FanOut
from qafel_mpi.transport.frames import new_frame
from qafel_mpi.transport.inbox import Inbox, Received
from qafel_mpi.wire import ADOPT_BYTES, Expected, Kind

PAIRS = np.dtype("<i8")  # of an ADOPT: client, participations so far, client, ...
AT_ONCE = ADOPT_BYTES // (2 * PAIRS.itemsize)  # clients that one message names


class Server(Kept, Protocol):
    """What is needed here of drivers/wall/server.py's."""

    inbox: Inbox
    broadcast: Root
    described: dict[Kind, Expected]
    checkpoints: WallCheckpoints
    questions: Questions | None
    synchronous: bool
    stopping: bool

    def close_round(self) -> None: ...


class Members:
    """The client ranks that live, and the clients of each."""

    def __init__(self, server: Server, hosting: Hosting):
        self._s, self.hosting = server, hosting

    def of_the_living(self, arrived: Iterable[Received]) -> Iterator[Received]:
        """Without messages of ranks that have died: their clients play the same participations again."""
        for received in arrived:
            if received.source in self._s.senders.gone:
                self._s.inbox.release(received.slot)
            else:
                yield received

    def look(self) -> None:
        """From every loop of rank 0's. Never waits."""
        for rank in self._s.session.deaths.fresh():
            self._leave(rank)

    def _leave(self, rank: int) -> None:
        s, broadcast = self._s, self._fanout
        in_flight = broadcast.sends.under_way(rank)
        broadcast.leave(rank)
        s.senders.leave(rank)
        s.round.leave(rank)
        s.session.clocks.leave(rank)
        s.turns.pop(rank, None)
        if s.questions is not None:
            s.questions.left(rank)
        died = f"{s.session.deaths.named(rank)} has died"
        died += f"; {in_flight} messages to it were under way" if in_flight else ""
        if not self.hosting.of(rank - 1).size:
            self._write_down(rank, "rank died", died, "it hosted no clients", in_flight)
        elif s.stopping or not s.senders.living:
            self._write_down(rank, "rank died", died, "the run is at its end", in_flight)
        elif spare := min(s.senders.spare, default=0):
            means = self._join(spare)
            self._write_down(rank, "rank died", died, self._move(rank, [spare]), in_flight)
            joins = f"{s.session.deaths.named(spare)} joins"
            self._write_down(
                spare, "rank joined", joins, f"it takes the place of rank {rank} and gets {means}"
            )
        else:
            self._write_down(rank, "rank died", died, self._move(rank, s.senders.active), in_flight)
        if not s.senders.living:
            s.ledger.reason = s.ledger.reason or "failed: every client rank has died"
        s.close_round()

    @property
    def _fanout(self) -> FanOut:
        assert isinstance(self._s.broadcast, FanOut), "with the others a death ends the run"
        return self._s.broadcast

    def _join(self, spare: int) -> str:
        """A spare rank takes part from now on. Returns how it comes to the newest version, in words."""
        self._s.senders.spare.discard(spare)
        return self._fanout.join(spare)

    def _write_down(self, rank: int, kind: str, what: str, detail: str, in_flight: int = 0) -> None:
        s = self._s
        s.session.fault(kind, rank, version=s.server.version, in_flight=in_flight, detail=detail)
        print(f"qafel-mpi: {what}; {detail}", file=sys.stderr, flush=True)

    def _move(self, rank: int, others: list[int]) -> str:
        """Give a dead rank's clients to these others. Returns what was done, in words."""
        s, before = self._s, self.hosting
        moving = before.of(rank - 1)
        self.hosting = before.without(rank - 1, s.setup.task.sizes(), [r - 1 for r in others])
        quotas = self.hosting.quotas(s.session.experiment.server.buffer_size) if s.synchronous else []
        # From the next round on; but one that has nothing, and in which nobody is left to play, begins anew.
        anew = s.synchronous and not s.round.asks and not s.server.filled
        since = s.server.version + (not anew)
        played, takers = s.checkpoints.played.participations, []
        for other in s.senders.active:
            clients = np.intersect1d(self.hosting.of(other - 1), moving)
            if clients.size:
                takers.append(other)
            if clients.size or s.synchronous:
                quota = quotas[other - 1] if quotas else 0
                self._tell(other, clients, played, quota, since)
            if other in s.turns:
                s.turns[other].adopt(clients, played[clients], s.setup.task.examples)
        if quotas:
            s.round.change({other: quotas[other - 1] for other in s.senders.living})
            if anew:
                s.round.begin()
        return f"its {moving.size} clients move to {some_ranks(takers)}"

    def _tell(self, rank: int, clients: np.ndarray, played: np.ndarray, quota: int, since: int) -> None:
        """ADOPT: these clients are the rank's from now on. quota: of a synchronous round, from that one on."""
        pairs = np.stack([clients.astype(PAIRS), played[clients]], axis=1)
        for begin in range(0, max(1, len(pairs)), AT_ONCE):
            part = pairs[begin : begin + AT_ONCE].reshape(-1).view(np.uint8)
            frame = new_frame(part.size)
            frame.payload[:] = part
            frame.seal(
                Kind.ADOPT,
                payload_bytes=part.size,
                expected=self._s.described[Kind.ADOPT],
                version=since,
                sequence=quota,
            )
            self._fanout.sends.post(frame, rank)


def adopt(turns: Turns, payload: np.ndarray, examples: Callable[[int], int]) -> None:
    """A client rank's part of an ADOPT: the clients that it names are the rank's from now on."""
    pairs = np.array(pairs_of(payload), dtype=PAIRS).reshape(-1, 2)
    turns.adopt(pairs[:, 0].astype(np.uint32), pairs[:, 1], examples)


def pairs_of(payload: np.ndarray) -> list[tuple[int, int]]:
    """Of an ADOPT: clients, and how often each has participated."""
    return [(client, played) for client, played in payload.view(PAIRS).reshape(-1, 2).tolist()]
