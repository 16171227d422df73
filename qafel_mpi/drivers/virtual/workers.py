"""Who trains the virtual clients: this process (here), or worker ranks that follow rank 0's stream (remote.py).

Both compute the same batches of the same clients from the same version, so that results don't depend on which
of them, or how many, there are.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.algorithms.client import Client
from qafel_mpi.codecs.base import Buffers
from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.encodings import EncodingErrors
from qafel_mpi.drivers.failures import evaluating, reason
from qafel_mpi.drivers.survival.kept import Kept, kept_of, rows_of
from qafel_mpi.drivers.survival.stopping import Guarded
from qafel_mpi.kernels.keys import Stream
from qafel_mpi.kernels.memory import copy_of, vector
from qafel_mpi.kernels.numba.rows import derive_rows
from qafel_mpi.tasks import Evaluation
from qafel_mpi.tasks.base import Poll
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.wire import as_sent

Job = tuple[int, int]  # (client, participation)


class Result(NamedTuple):
    """A trained client's upload; its payload stays as it is."""

    payload: np.ndarray
    key: int
    loss: float
    error: str = ""  # the training diverged: why there is no payload
    rank: int = 0  # that trained it


class Workers(Protocol):
    """Trains batches of clients from the newest version; hands out results in whatever order they are asked for."""

    @property
    def sent(self) -> int:
        """Messages so far."""

    @property
    def received(self) -> int:
        """Messages so far."""

    def train(self, jobs: Collection[Job], version: int, threads: int = 0) -> None:
        """Train these clients as one batch, from version t = `version`: the last published, or downloaded.

        threads: of torch; 0: as many as it has.
        """

    def publish(self, payload: np.ndarray, version: int, key: int) -> None:
        """q^t, for every worker's replica; its bytes are the caller's again when this returns."""

    def download(self, payload: np.ndarray, version: int, key: int) -> None:
        """A unicast download, for the next batch alone."""

    def give(self, x: Tensor, version: int) -> None:
        """x^t itself in a download's place, for the next batch alone: so a rank of the wall clock begins."""

    def take(self, job: Job) -> Result:
        """The result of a job that was handed out; waits for it."""

    def forget(self) -> None:
        """Nobody will take what was handed out so far: its results are dropped, those under way when they come."""

    def evaluate(self, x: Tensor) -> Evaluation:
        """Loss and accuracy of x; waits for them, and the trainings that were handed out go on."""

    @property
    def sequence(self) -> int:
        """The number of the last message to a worker."""

    def settle(self) -> tuple[dict[Job, Result], dict[int, np.ndarray]]:
        """Wait until all that was handed out is trained. Returns the results that nobody has taken, and by rank the
        positions of the workers' shards (Recorder.positions). May raise Stopped."""

    def restore(self, results: dict[Job, Result], version: int, sequence: int, x_hat: Tensor) -> None:
        """Go on from what `settle` and `sequence` gave, at this version; the ranks are given x̂ by the session."""

    def kept(self) -> np.ndarray:
        """Behind `settle`: what all clients keep between their trainings, as kept.rows_of gives it."""

    def give_back(self, kept: np.ndarray) -> None:
        """Behind `restore`, and collective: what `kept` gave. Raises ValueError where it does not fit."""

    def halt(self) -> None:
        """Give up what is still to be trained: nobody will take it."""

    def stop(self) -> None:
        """End the workers, after `halt`; every message is accounted for."""


class Trainer:
    """Trains batches and encodes their updates; the same on rank 0 alone and on a worker."""

    def __init__(self, setup: Setup, client: Client, recorder: Recorder):
        self.task, self.client, self.seed = setup.task, client, setup.experiment.seed
        self.errors = EncodingErrors.of(setup, recorder)
        task, rows = self.task, self.task.together
        self.deltas = setup.where_trained(vector(rows * task.layout.elements, task.dtype).view(rows, -1))
        self.encoding_s = (0.0, 0.0)  # when the last batch was encoded: begin and end, by perf_counter

    def download(self, payload: np.ndarray, key: int, version: int) -> None:
        """A unicast download, for the next batch."""
        self.client.replica.download(payload, key, version)

    def kept(self) -> Kept:
        """What the clients that are trained here keep between their trainings."""
        return self.client.kept()

    def restore(self, kept: Kept) -> None:
        """The inverse of `kept`. Raises ValueError where it does not fit."""
        self.client.restore(kept)

    def train(
        self, jobs: Collection[Job], start: Tensor, outs: Buffers, poll: Poll | None = None
    ) -> list[Result]:
        """One result a job. outs: a buffer for the payload of each. poll: as in Task.train; it may raise Stopped."""
        version = self.client.begin(start)
        trainings = np.fromiter(chain.from_iterable(jobs), np.int64, 2 * len(jobs)).reshape(-1, 2)
        seeds = derive_rows(self.seed, Stream.SHUFFLE, trainings).tolist()
        deltas = self.deltas[: len(jobs)]
        clients = trainings[:, 0].tolist()
        guarded = None if poll is None else Guarded(poll)
        try:
            losses = self.task.train_together(clients, start, deltas, seeds, guarded, version=version)
        except Exception as failure:
            if guarded is not None and failure is guarded.error:
                raise
            why = reason(failure, f"client {clients[0]}{' or one trained beside it' * (len(jobs) > 1)}: ")
            return [Result(outs[i][:0], 0, float("nan"), why) for i in range(len(jobs))]
        begin_s = perf_counter()
        sizes, keys, errors = self.client.encode_all(deltas, outs, trainings)
        self.encoding_s = (begin_s, perf_counter())
        payloads = [out if out.size == size else out[:size] for out, size in zip(outs, sizes, strict=True)]
        if self.errors is not None:
            for i, job in enumerate(jobs):
                if i not in errors:
                    self.errors.add(deltas[i], payloads[i], keys[i], *job)
        # The header carries a float32: what is recorded must not depend on who trained.
        results = list(map(Result, payloads, keys, map(as_sent, losses.tolist())))
        for i, error in errors.items():
            results[i] = results[i]._replace(key=0, error=f"client {clients[i]}: {error}")
        return results


def use_threads(threads: int) -> None:
    """Let torch compute with so many; 0 leaves it as it is."""
    if threads and threads != torch.get_num_threads():
        torch.set_num_threads(threads)


class LocalWorkers:
    """No workers: rank 0 trains itself, on its own hidden state."""

    sent = received = sequence = 0

    def __init__(self, setup: Setup, trainer: Trainer, poll: Poll | None = None):
        """trainer: with the server's own hidden state. poll: between the steps of a training."""
        self.setup, self.poll, self.trainer = setup, poll, trainer
        x_hat = trainer.client.replica.x_hat
        self.start = copy_of(x_hat) if setup.unicast else x_hat
        self._payload_bytes = setup.uplink.payload_bytes()
        self._results: dict[Job, Result] = {}

    def train(self, jobs: Collection[Job], version: int, threads: int = 0) -> None:
        use_threads(threads)
        outs = np.empty((len(jobs), self._payload_bytes), dtype=np.uint8)
        self._results.update(zip(jobs, self.trainer.train(jobs, self.start, outs, self.poll), strict=True))

    def publish(self, payload: np.ndarray, version: int, key: int) -> None:
        """The server has moved the hidden state already: it is the one that is trained on."""

    def download(self, payload: np.ndarray, version: int, key: int) -> None:
        if self.setup.pull:
            self.trainer.download(payload, key, version)
        else:
            self.setup.downlink.decode(payload, self.start, key)

    def give(self, x: Tensor, version: int) -> None:
        self.start.copy_(x)

    def take(self, job: Job) -> Result:
        return self._results.pop(job)

    def forget(self) -> None:
        self._results.clear()

    def evaluate(self, x: Tensor) -> Evaluation:
        with evaluating():
            return self.setup.task.evaluate(x, self.setup.experiment.evaluation.examples)

    def settle(self) -> tuple[dict[Job, Result], dict[int, np.ndarray]]:
        return self._results, {}

    def restore(self, results: dict[Job, Result], version: int, sequence: int, x_hat: Tensor) -> None:
        self._results = results

    def kept(self) -> np.ndarray:
        return rows_of(self.trainer.kept())

    def give_back(self, kept: np.ndarray) -> None:
        self.trainer.restore(kept_of(kept))

    def halt(self) -> None:
        self._results.clear()

    def stop(self) -> None:
        """There are none."""
