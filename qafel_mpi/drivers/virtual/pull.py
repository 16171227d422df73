"""The clients' side of a server that asks, on the virtual clock: each client's model lives where it is trained."""

from __future__ import annotations

from collections.abc import Collection
from time import perf_counter

import numpy as np
from torch import Tensor

from qafel_mpi.algorithms.client import Client
from qafel_mpi.algorithms.quafl import Question
from qafel_mpi.codecs import NonFiniteError, PayloadError
from qafel_mpi.codecs.base import Buffers
from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.failures import reason
from qafel_mpi.drivers.pulled import Progressing
from qafel_mpi.drivers.session import Session
from qafel_mpi.drivers.survival.kept import Kept
from qafel_mpi.drivers.survival.stopping import Guarded
from qafel_mpi.drivers.virtual.planned import pulls
from qafel_mpi.drivers.virtual.workers import Job, Result, Trainer
from qafel_mpi.tasks.base import Poll
from qafel_mpi.wire import as_sent


class PullTrainer(Trainer):
    """A question at a time. How many steps its client has had time for, every rank knows from the schedule."""

    def __init__(self, setup: Setup, session: Session):
        super().__init__(setup, setup.client(), session.recorder)
        self._session = session
        self._progress = Progressing(setup)
        self._pulls = pulls(setup.experiment)
        self._question: Question | None = None

    def download(self, payload: np.ndarray, key: int, version: int) -> None:
        self._question = Question(payload.copy(), key, version)
        self.client.replica.version = version

    def kept(self) -> Kept:
        return self._progress.models.state()

    def restore(self, kept: Kept) -> None:
        self._progress.models.restore(kept)

    def train(
        self, jobs: Collection[Job], start: Tensor, outs: Buffers, poll: Poll | None = None
    ) -> list[Result]:
        ((client, participation),) = jobs
        assert self._question is not None, "a question comes before its job"
        guarded = None if poll is None else Guarded(poll)
        try:
            for _ in range(self._steps(client, participation)):
                self._progress.step(client, participation, guarded)
        except Exception as failure:
            if guarded is not None and failure is guarded.error:
                raise
            return [Result(outs[0][:0], 0, float("nan"), reason(failure, f"client {client}: "))]
        begin_s = perf_counter()
        try:
            given = self._progress.answer(client, participation, self._question, outs[0])
        except (NonFiniteError, PayloadError) as error:
            return [Result(outs[0][:0], 0, float("nan"), f"client {client}: {error}")]
        self.encoding_s = (begin_s, perf_counter())
        if given.wrapped:
            self._session.fault("wrapped around", self._session.comm.rank, client=client, detail=given.said)
        return [Result(outs[0][: given.payload_bytes], given.key, as_sent(given.loss))]

    def _steps(self, client: int, participation: int) -> int:
        job, pulls_ = (client, participation), self._pulls
        while job not in pulls_.shares:
            pulls_.next(0)
        return int(self._progress.most(client) * pulls_.shares[job])


def trainer_of(setup: Setup, client: Client, session: Session) -> Trainer:
    """A PullTrainer where the server asks. client: of the others."""
    return PullTrainer(setup, session) if setup.pull else Trainer(setup, client, session.recorder)
