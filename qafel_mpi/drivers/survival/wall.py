"""What a checkpoint holds of a wall run: rank 0's state at a moment when it is not in the middle of a step.

What the clients were training, and updates under way, are lost; a client plays that participation again. Where
clients keep something from one training to the next, all ranks hold for the checkpoint (holding.py), and nothing is
under way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from qafel_mpi.algorithms import server as algorithms
from qafel_mpi.algorithms.client import Replica
from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.ledger import Ledger
from qafel_mpi.drivers.session import Session
from qafel_mpi.drivers.survival.checkpoints import INTERRUPTED
from qafel_mpi.drivers.survival.holding import Holding
from qafel_mpi.drivers.survival.kept import Kept, kept_of
from qafel_mpi.drivers.survival.resume import MISFITS, misfit, share, spread, spread_kept, whole_state
from qafel_mpi.drivers.wall.population import population_of
from qafel_mpi.drivers.wall.questions import Questions
from qafel_mpi.drivers.wall.senders import Round, Senders
from qafel_mpi.kernels.state import State
from qafel_mpi.schedule.hosting import Cohort, Hosting, Turns
from qafel_mpi.transport.broadcast import Root
from qafel_mpi.transport.exchange import broadcast_text
from qafel_mpi.wire import Message

LONGEST_HOLD_SECONDS = 10.0  # of a run that a signal ends: a batch system gives a minute


class Server(Protocol):
    """What is needed here of drivers/wall/server.py's."""

    session: Session
    setup: Setup
    server: algorithms.Server
    ledger: Ledger
    senders: Senders
    round: Round
    turns: dict[int, Turns]
    broadcast: Root
    questions: Questions | None
    busy_s: float


class Played:
    """Rank 0's: how often the server has had an update of each client, and who was used in this synchronous round."""

    def __init__(self, clients: int):
        self.participations = np.zeros(clients, dtype=np.int64)
        self.round: set[int] = set()
        self._version = -1

    def took(self, client: int, participation: int, *, version: int, used: bool) -> None:
        """An update that the server has received, at this version of its own."""
        self.participations[client] = max(int(self.participations[client]), participation + 1)
        if version != self._version:
            self._version = version
            self.round.clear()
        if used:
            self.round.add(client)

    def begun(self, version: int) -> list[int]:
        """The clients of the round that starts from this version, so far."""
        return sorted(self.round) if version == self._version else []


class WallCheckpoints:
    """Rank 0's: what the server's loop asks and tells."""

    def __init__(self, server: Server, hosting: Hosting):
        assert server.session.recovery.checkpoints is not None, "rank 0 has them once the session is open"
        self._s, self._hosting = server, hosting
        self._writes = server.session.recovery.checkpoints
        self._seen = 0  # the version at the last look
        self._turns: dict[int, int] = {}  # by rank: messages of the starts before this one
        self._before: dict[str, Any] = {}  # totals of these
        self._holding = Holding(server.session, server.senders) if server.setup.kept else None
        self._interrupted_s: float | None = None
        self._may_end = (
            self._holding is None or self._writes.every.never
        )  # what interrupts the run need not wait
        self.played = Played(server.setup.clients)

    def begin(self, step: Callable[[], None]) -> None:
        """Collective: the run's first row, or the state that it goes on from. Raises CheckpointError.

        step: the server's, which may have waited for room when a signal came.
        """
        s = self._s
        if s.session.recovery.resumed is None:
            s.ledger.open()
            return
        run = s.session.recovery.resumed["run"]
        try:
            s.server.restore(run["server"])
            s.ledger.restore(run["ledger"])
            self.played.participations[:] = run["participations"]
            self._before = dict(run["totals"])
            turns = {
                rank: int(count) for rank, count in zip(run["ranks"].tolist(), run["turns"], strict=True)
            }
            # Without rounds nobody is to be avoided: a rank would never play these clients again.
            rounds = s.session.experiment.server.synchronous
            in_round = [int(client) for client in run["round"]] if rounds else []
            if s.questions is not None:
                s.questions.restore(run["questions"])
            kept = run["clients"] if s.setup.kept else None
        except MISFITS as error:
            raise misfit(error) from error
        self._seen = version = s.server.version
        self._writes.begin_at(version)
        s.broadcast.begin_at(version)
        size, same = s.session.comm.size, len(turns) == s.session.comm.size - 1
        # With other ranks than before the draws are new ones: no rank has had so many turns.
        self._turns = {rank: turns[rank] if same else s.ledger.uploads for rank in range(1, size)}
        share(s.session, None, s.server.x_hat.numpy())
        spread_turns(s.session, self.played.participations, self._turns, in_round)
        if kept is not None:
            spread_kept(s.session, kept)
        for rank, turns_of in s.turns.items():
            turns_of.go_on(self._turns[rank], self.played.participations)
            turns_of.next()  # as the client does
        for client in in_round:
            self.played.took(client, -1, version=version, used=True)
            s.round.report(1 + self._hosting.host_of(client))
        print(
            f"qafel-mpi: goes on from version {version}; updates that were under way are lost",
            file=sys.stderr,
            flush=True,
        )
        if s.server.full:
            step()

    def took(self, message: Message, weight: float) -> None:
        """An update that the server has received; weight 0 where it was not used."""
        version = self._s.server.version
        self.played.took(message.client, message.sequence, version=version, used=weight > 0)

    def end(self) -> None:
        """The server's loop is over: a run that was interrupted can go on."""
        if self._holding is not None:
            self._holding.close()
        elif self._s.ledger.reason == INTERRUPTED:
            self.write()

    @property
    def holds(self) -> bool:
        """The server asks no client anything until a checkpoint has what they keep."""
        return self._holding is not None and self._holding.wanted

    def may_end(self) -> bool:
        """A signal interrupts the run: whether it ends now. A checkpoint gets what clients keep first, if it can."""
        if self._may_end or self._holding is None:
            return True
        now_s = perf_counter()
        self._interrupted_s = self._interrupted_s or now_s
        self._holding.wanted = True
        return now_s - self._interrupted_s > LONGEST_HOLD_SECONDS

    def look(self) -> None:
        """Between two turns of the server: write a checkpoint where one is due."""
        if self._holding is not None and self._holding.wanted:
            self._hold(self._holding)
        elif self._seen != self._s.server.version:
            self._seen = self._s.server.version
            if not self._writes.due(self._seen):
                return
            if self._holding is not None:
                self._holding.wanted = True
            else:
                self.write()

    def _hold(self, holding: Holding) -> None:
        questions = self._s.questions
        if not holding.begun:
            if questions is None or questions.idle:
                holding.begin()
        elif holding.complete():
            kept = holding.gather()
            if kept is not None:
                self.write(kept, waited_s=holding.held_s)
                self._may_end = self._interrupted_s is not None
            if not self._may_end:  # else all hold until they are told to stop
                holding.go_on()

    def write(self, kept: np.ndarray | None = None, waited_s: float = 0.0) -> None:
        """The server is in no step. kept: what clients keep, where they do."""
        state = {} if kept is None else {"clients": kept}

        def take() -> State:
            return whole_state(self._s.session, self._state() | state, {})

        self._writes.keep(self._s.server.version, take, waited_s)

    def totals(self) -> dict[str, Any]:
        """For the trace's attributes and the summary: what this start and those before it have counted."""
        s = self._s
        now = {
            "down_links": s.broadcast.link_bytes,
            "skipped_versions": s.broadcast.skipped,
            "busy_seconds": s.busy_s,
        }
        return {name: self._before.get(name, 0) + count for name, count in now.items()}

    def _state(self) -> State:
        s = self._s
        taken = {rank: count + self._turns.get(rank, 0) for rank, count in s.senders.taken.items()}
        return {
            "server": s.server.state(),
            "ledger": s.ledger.state(),
            "totals": self.totals(),
            "participations": self.played.participations,
            "ranks": np.array(list(taken), dtype=np.int64),
            "turns": np.array(list(taken.values()), dtype=np.int64),
            "round": self.played.begun(s.server.version),
            "questions": None if s.questions is None else s.questions.state(),
        }


def take_up(
    session: Session, replica: Replica, turns: Turns, cohort: Cohort, restore: Callable[[Kept], None] | None
) -> bool:
    """Collective, a client rank's part of `begin`. Whether it has played all that the round under way asks of it.

    restore: takes what the rank's clients keep, where they do.
    """
    share(session, replica)
    clients = population_of(session.experiment, session.comm.size)
    played = np.zeros(clients, dtype=np.int64)
    counts, in_round = spread_turns(session, played, {}, [])
    turns.go_on(counts[session.comm.rank], played)
    own = set(turns.clients.tolist())
    if restore is not None:
        kept: dict[int, tuple[bytes, int]] = {}
        spread_kept(session, take=lambda rows: kept.update(kept_of(rows, own.__contains__)))
        restore(kept)
    return cohort.go_on({client for client in in_round if client in own}, replica.version)


def spread_turns(
    session: Session, participations: np.ndarray, turns: Mapping[int, int], in_round: list[int]
) -> tuple[dict[int, int], list[int]]:
    """Collective: rank 0's on every rank; participations, (clients,), is filled in place."""
    spread(session, participations)
    counts = np.array([turns.get(rank, 0) for rank in range(session.comm.size)], dtype=np.int64)
    spread(session, counts)
    clients = np.array(in_round, dtype=np.int64)
    size = int(broadcast_text(session.comm, str(clients.size)))
    clients = clients if session.comm.rank == 0 else np.zeros(size, dtype=np.int64)
    spread(session, clients)
    return dict(enumerate(counts.tolist())), clients.tolist()
