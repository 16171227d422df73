"""What a checkpoint holds of a wall run: rank 0's state at a moment when it is not in the middle of a step.

What the clients were training, and updates under way, are lost; a client plays that participation again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from qafel_mpi.algorithms import server as algorithms
from qafel_mpi.algorithms.client import Replica
from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.ledger import Ledger
from qafel_mpi.drivers.session import Session
from qafel_mpi.drivers.survival.checkpoints import INTERRUPTED
from qafel_mpi.drivers.survival.resume import MISFITS, misfit, share, spread, whole_state
from qafel_mpi.drivers.wall.population import population_of
from qafel_mpi.drivers.wall.senders import Round, Senders
from qafel_mpi.kernels.state import State
from qafel_mpi.schedule.hosting import Cohort, Hosting, Turns
from qafel_mpi.transport.exchange import broadcast_text
from qafel_mpi.wire import Message


class Server(Protocol):
    """What is needed here of drivers/wall/server.py's."""

    session: Session
    setup: Setup
    server: algorithms.Server
    ledger: Ledger
    senders: Senders
    round: Round
    turns: dict[int, Turns]


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
            turns = {
                rank: int(count) for rank, count in zip(run["ranks"].tolist(), run["turns"], strict=True)
            }
            # Without rounds nobody is to be avoided: a rank would never play these clients again.
            rounds = s.session.experiment.server.synchronous
            in_round = [int(client) for client in run["round"]] if rounds else []
        except MISFITS as error:
            raise misfit(error) from error
        self._seen = version = s.server.version
        self._writes.begin_at(version)
        size, same = s.session.comm.size, len(turns) == s.session.comm.size - 1
        # With other ranks than before the draws are new ones: no rank has had so many turns.
        self._turns = {rank: turns[rank] if same else s.ledger.uploads for rank in range(1, size)}
        share(s.session, None, s.server.x_hat.numpy())
        spread_turns(s.session, self.played.participations, self._turns, in_round)
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
        if self._s.ledger.reason == INTERRUPTED:
            self.write()

    def look(self) -> None:
        """Between two turns of the server: write a checkpoint where one is due."""
        if self._seen != self._s.server.version:
            self._seen = self._s.server.version
            if self._writes.due(self._seen):
                self.write()

    def write(self) -> None:
        """The server is in no step."""
        self._writes.keep(self._s.server.version, lambda: whole_state(self._s.session, self._state(), {}))

    def _state(self) -> State:
        s = self._s
        taken = {rank: count + self._turns.get(rank, 0) for rank, count in s.senders.taken.items()}
        return {
            "server": s.server.state(),
            "ledger": s.ledger.state(),
            "participations": self.played.participations,
            "ranks": np.array(list(taken), dtype=np.int64),
            "turns": np.array(list(taken.values()), dtype=np.int64),
            "round": self.played.begun(s.server.version),
        }


def take_up(session: Session, replica: Replica, turns: Turns, cohort: Cohort) -> bool:
    """Collective, a client rank's part of `begin`. Whether it has played all that the round under way asks of it."""
    share(session, replica)
    clients = population_of(session.experiment, session.comm.size)
    played = np.zeros(clients, dtype=np.int64)
    counts, in_round = spread_turns(session, played, {}, [])
    turns.go_on(counts[session.comm.rank], played)
    own = set(turns.clients.tolist())
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
