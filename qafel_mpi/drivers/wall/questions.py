"""Rank 0's side of a server that asks, on the wall clock: who was asked, and has not answered yet."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from qafel_mpi.drivers.wall.models import Server as Sends
from qafel_mpi.drivers.wall.models import download
from qafel_mpi.kernels.state import State
from qafel_mpi.schedule.hosting import Hosting
from qafel_mpi.schedule.population import Population


class Members(Protocol):
    """What is needed here of drivers/wall/members.py's."""

    hosting: Hosting


class Server(Sends, Protocol):
    """What is needed here of drivers/wall/server.py's."""

    @property
    def members(self) -> Members: ...


class Questions:
    """As many open ones as the buffer has room for, to different clients, drawn from the run's seed.

    A rank answers in the order in which it was asked. A message of it that was dropped counts as its answer.
    """

    def __init__(self, s: Server):
        self._s = s
        seed = s.setup.experiment.seed
        self._people = Population(s.setup.clients, seed, replacement=False, dropout=0.0)
        self._open: dict[int, deque[int]] = {}  # by rank: clients

    def ask(self) -> None:
        while self._people.training < self._s.server.room:
            client, participation, _ = self._people.begin()
            rank = 1 + self._s.members.hosting.host_of(client)
            self._open.setdefault(rank, deque()).append(client)
            download(self._s, rank, client, participation)

    @property
    def idle(self) -> bool:
        """Every question has been answered."""
        return not any(self._open.values())

    def state(self) -> State:
        """For a checkpoint, while it is `idle`: who was asked how often, and what is drawn next."""
        return self._people.state()

    def restore(self, state: State) -> None:
        """The inverse of `state`."""
        self._people.restore(state)

    def answered(self, rank: int) -> None:
        """A message has come that is an answer, as far as one can know."""
        if self._open.get(rank):
            self._people.finish(self._open[rank].popleft())

    def left(self, rank: int) -> None:
        """A rank has died, and will answer nothing: others are asked in its clients' place."""
        for client in self._open.pop(rank, ()):
            self._people.finish(client)
