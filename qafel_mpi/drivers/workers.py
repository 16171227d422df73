"""Who trains the virtual clients: this process (here), or worker ranks that follow rank 0's stream (remote.py).

Both compute the same batches of the same clients from the same version, so that results don't depend on which
of them, or how many, there are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.algorithms.client import Client
from qafel_mpi.codecs import NonFiniteError
from qafel_mpi.drivers.build import Setup
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.tasks import Evaluation

Job = tuple[int, int]  # (client, participation)


class Result(NamedTuple):
    """A trained client's upload, until the server reads it in its turn."""

    payload: np.ndarray
    key: int
    loss: float
    error: str = ""  # the training diverged: why there is no payload


class Workers(Protocol):
    """Trains batches of clients from the newest version; hands out results in whatever order they are asked for."""

    @property
    def sent(self) -> int:
        """Messages so far."""

    @property
    def received(self) -> int:
        """Messages so far."""

    def train(self, jobs: Collection[Job], version: int) -> None:
        """Train these clients as one batch, from version t = `version`: the last published, or downloaded."""

    def publish(self, payload: np.ndarray, version: int, key: int) -> None:
        """q^t, for every worker's replica; its bytes are the caller's again when this returns."""

    def download(self, payload: np.ndarray, version: int, key: int) -> None:
        """A unicast download, for the next batch alone."""

    def take(self, job: Job) -> Result:
        """The result of a job that was handed out; waits for it. Its payload is valid until the next call."""

    def evaluate(self, x: Tensor) -> Evaluation:
        """Loss and accuracy of x; waits for them, and the trainings that were handed out go on."""

    def halt(self) -> None:
        """Give up what is still to be trained: nobody will take it."""

    def stop(self) -> None:
        """End the workers, after `halt`; every message is accounted for."""


class Trainer:
    """Trains batches and encodes their updates; the same on rank 0 alone and on a worker."""

    def __init__(self, setup: Setup, client: Client):
        self.task, self.client, self.seed = setup.task, client, setup.experiment.seed
        shape = (setup.task.together, setup.task.layout.elements)
        self.deltas = torch.empty(shape, dtype=setup.task.dtype)
        self._rows = list(self.deltas)  # made once: taking a row costs as much as encoding a small one

    def train(self, jobs: Collection[Job], start: Tensor, buffer: Callable[[], np.ndarray]) -> list[Result]:
        """One result a job. buffer: called once for each, gives the bytes that its payload is written to."""
        self.client.begin()
        seeds = [derive(self.seed, Stream.SHUFFLE, client, n) for client, n in jobs]
        trained = self.task.train_together(
            [client for client, _ in jobs], start, self.deltas[: len(jobs)], seeds
        )
        # The header carries a float32: what is recorded must not depend on who trained.
        losses = np.array([one.loss for one in trained]).astype(np.float32).tolist()
        return [
            self._encode(client, n, delta, loss, buffer())
            for (client, n), delta, loss in zip(jobs, self._rows, losses, strict=False)
        ]

    def _encode(self, client: int, participation: int, delta: Tensor, loss: float, out: np.ndarray) -> Result:
        try:
            size, key = self.client.encode(delta, out, client=client, participation=participation)
        except NonFiniteError as error:
            return Result(out[:0], 0, loss, f"client {client}: {error}")
        return Result(out[:size], key, loss)


class LocalWorkers:
    """No workers: rank 0 trains itself, on its own hidden state."""

    sent = received = 0

    def __init__(self, setup: Setup, client: Client):
        self.setup = setup
        self.trainer = Trainer(setup, client)
        x_hat = client.replica.x_hat
        self.start = torch.empty_like(x_hat) if setup.unicast else x_hat
        self._results: dict[Job, Result] = {}
        self._free: list[np.ndarray] = []

    def train(self, jobs: Collection[Job], version: int) -> None:
        self._results.update(zip(jobs, self.trainer.train(jobs, self.start, self._buffer), strict=True))

    def publish(self, payload: np.ndarray, version: int, key: int) -> None:
        """The server has moved the hidden state already: it is the one that is trained on."""

    def download(self, payload: np.ndarray, version: int, key: int) -> None:
        self.setup.downlink.decode(payload, self.start, key)

    def take(self, job: Job) -> Result:
        result = self._results.pop(job)
        buffer = result.payload.base
        assert buffer is not None, "a payload is a view of its buffer"
        self._free.append(buffer)  # written again by the next training, after the server has read it
        return result

    def evaluate(self, x: Tensor) -> Evaluation:
        return self.setup.task.evaluate(x, self.setup.experiment.evaluation.examples)

    def halt(self) -> None:
        self._results.clear()

    def stop(self) -> None:
        """There are none."""

    def _buffer(self) -> np.ndarray:
        return self._free.pop() if self._free else np.empty(self.setup.uplink.payload_bytes(), np.uint8)
