"""The clients as the schedule sees them: who trains, who may start, how often each has trained."""

from __future__ import annotations

from array import array

import numpy as np

from qafel_mpi.kernels.keys import Stream
from qafel_mpi.kernels.state import State, restore_array
from qafel_mpi.schedule.draws import Draws, generator


class Population:
    """At most eight bytes a client, and constant time for each start, however many train already.

    replacement: a client that trains may be drawn again; else it may not until it has finished. dropout: the
    share of starts that never report.
    """

    def __init__(self, clients: int, seed: int, *, replacement: bool, dropout: float):
        self.clients = clients
        self.training = 0
        self._participations = array("I", bytes(4 * clients))
        # The clients that may start are the first `clients - training` of these.
        self._free = None if replacement else array("I", np.arange(clients, dtype=np.uint32).tobytes())
        g = generator(seed, Stream.SELECTION)
        self._draws = Draws(g, lambda n: g.integers(0, clients, n) if replacement else g.random(n))
        d = generator(seed, Stream.DROPOUT)
        self._reports = Draws(d, lambda n: d.random(n) >= dropout) if dropout else None

    def begin(self) -> tuple[int, int, bool]:
        """Start a client, drawn uniformly: (client, which of its trainings from 0, whether it will report).

        Raises IndexError where all train and none may start twice.
        """
        client = int(next(self._draws)) if self._free is None else self._take_free(self._free)
        participation = self._participations[client]
        self._participations[client] = participation + 1
        self.training += 1
        return client, participation, self._reports is None or bool(next(self._reports))

    def finish(self, client: int) -> None:
        """The client has finished, or was given up."""
        self.training -= 1
        if self._free is not None:
            self._free[self.clients - self.training - 1] = client

    def state(self) -> State:
        return {
            "training": self.training,
            "participations": _numbers(self._participations),
            "free": None if self._free is None else _numbers(self._free),
            "draws": self._draws.state(),
            "reports": None if self._reports is None else self._reports.state(),
        }

    def restore(self, state: State) -> None:
        self.training = int(state["training"])
        restore_array(_numbers(self._participations), state["participations"])
        if self._free is not None:
            restore_array(_numbers(self._free), state["free"])
        self._draws.restore(state["draws"])
        if self._reports is not None:
            self._reports.restore(state["reports"])

    def _take_free(self, free: array[int]) -> int:
        left = self.clients - self.training
        if not left:
            raise IndexError("every client is training")
        at = int(next(self._draws) * left)
        client = free[at]
        free[at] = free[left - 1]
        return client


def _numbers(of: array[int]) -> np.ndarray:
    """A view of an array of clients."""
    return np.frombuffer(of, dtype=np.uint32)
