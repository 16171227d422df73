"""What a client does between two questions of the server, the same on both clocks."""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

import numpy as np

from qafel_mpi.algorithms.quafl import LocalModels, Question
from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.survival.kept import Kept
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.kernels.memory import vector_like
from qafel_mpi.tasks.base import Poll

STEPS_BITS = 24  # of a step's number within its training, in the counter that its batch is drawn from


class Answer(NamedTuple):
    """What became of a question. loss: the mean of the steps, nan without any."""

    payload_bytes: int
    key: int
    loss: float
    train_seconds: float
    wrapped: int  # buckets of the server's model that were too far from the client's

    @property
    def said(self) -> str:
        return f"buckets of the server's model: {self.wrapped}; raise downlink.bits or downlink.spacing"


class Progressing:
    """The models of the clients that are trained here, and the steps that each has made since it was asked.

    A step is a training of one step (build() makes the task so); SGD keeps nothing from one to the next.
    """

    def __init__(self, setup: Setup):
        e = setup.experiment
        self.task, self.seed, self._setup = setup.task, e.seed, setup
        self.models = LocalModels(
            setup.where_trained(setup.x0),
            setup.uplink,
            setup.downlink,
            seed=e.seed,
            asked=e.server.buffer_size,
        )
        self._delta = vector_like(setup.where_trained(setup.x0))
        self._steps: dict[int, list[float]] = {}  # by client: the loss of each step
        self._seconds: dict[int, float] = {}

    def state(self) -> Kept:
        """For a checkpoint between two steps: the clients' models, and what each has done since it was asked."""
        return {
            client: (y + self._since(client).tobytes(), version)
            for client, (y, version) in self.models.state().items()
        }

    def restore(self, state: Kept) -> None:
        """The inverse of `state`. Raises ValueError where a model is of another size."""
        size = self._since(0).nbytes
        self.models.restore({client: (data[:-size], version) for client, (data, version) in state.items()})
        for client, (data, _) in state.items():
            steps, loss, seconds = np.frombuffer(data[-size:])
            self._steps[client], self._seconds[client] = [float(loss)] * int(steps), float(seconds)

    def _since(self, client: int) -> np.ndarray:
        """(3,) float64: steps since it was asked, their mean loss, and their seconds."""
        losses = self._steps.get(client, [])
        return np.array(
            [len(losses), np.mean(losses) if losses else 0.0, self._seconds.get(client, 0.0)], np.float64
        )

    def most(self, client: int) -> int:
        """P."""
        return self._setup.experiment.client.steps(self.task.examples(client))

    def done(self, client: int) -> bool:
        """Whether it has made its P steps."""
        return len(self._steps.get(client, ())) >= self.most(client)

    def step(self, client: int, participation: int, poll: Poll | None = None) -> None:
        """One SGD step of y. participation: how often the client was asked. poll: as in Task.train."""
        begun_s, losses = perf_counter(), self._steps.setdefault(client, [])
        y, version = self.models.model(client), self.models.version(client)
        seed = derive(self.seed, Stream.SHUFFLE, client, (participation << STEPS_BITS) + len(losses))
        losses.append(self.task.train(client, y, self._delta, seed, poll, version=version).loss)
        y.add_(self._delta)
        self._seconds[client] = self._seconds.get(client, 0.0) + perf_counter() - begun_s

    def answer(self, client: int, participation: int, question: Question, out: np.ndarray) -> Answer:
        """See LocalModels.answer. The client begins anew."""
        losses = self._steps.pop(client, [])
        size, key, wrapped = self.models.answer(client, participation, question, out)
        loss = float(np.mean(losses)) if losses else float("nan")
        return Answer(size, key, loss, self._seconds.pop(client, 0.0), wrapped)
