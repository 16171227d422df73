"""What a worker that dies had been given goes to others, and the run's result stays the same, bit for bit.

A batch is a function of its clients and of the version that they start from. Rank 0 knows which batches each worker
has not reported in full, and keeps what it takes to make x̂ of the versions that these start from (history.py). It
gives such a batch to another worker as a whole, with x̂ of that version in full before it unless it is the newest.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.failures import evaluating
from qafel_mpi.drivers.session import Session
from qafel_mpi.drivers.virtual.history import History
from qafel_mpi.drivers.virtual.messages import addressee
from qafel_mpi.drivers.virtual.outstanding import Outstanding
from qafel_mpi.drivers.virtual.workers import Job
from qafel_mpi.tasks import Evaluation
from qafel_mpi.transport.frames import Frame, Sends


@dataclass(eq=False)
class Order:
    """A batch that a worker was given. missing: those of its jobs that it has not reported."""

    jobs: list[Job]
    missing: set[Job]
    version: int
    threads: int
    download: tuple[np.ndarray, int, int] | None  # unicast: payload, version, key


class Workers(Protocol):
    """What is needed here of remote.py's."""

    ranks: list[int]
    outstanding: Outstanding
    sends: Sends
    version: int

    def leave(self, rank: int) -> None: ...
    def order(self, rank: int, jobs: Collection[Job], version: int, threads: int) -> None: ...
    def model(self, rank: int, x: Tensor, version: int) -> None: ...
    def redownload(self, rank: int, payload: np.ndarray, version: int, key: int) -> None: ...


class Handover:
    """Rank 0's. Where a worker's death ends the run it keeps no history, and costs next to nothing."""

    def __init__(self, session: Session, setup: Setup, workers: Workers):
        self._session, self._setup, self._workers = session, setup, workers
        self._orders: dict[int, dict[Job, Order]] = {rank: {} for rank in workers.ranks}
        self._busy = False
        self.history = History(setup) if session.deaths.endured and not setup.unicast else None

    def given(
        self, rank: int, jobs: Collection[Job], version: int, threads: int, download: Frame | None
    ) -> None:
        """A worker is given a batch. download: the frame that goes before it, with unicast."""
        if not self._session.deaths.endured:
            return
        before = None
        if download is not None and (message := download.message) is not None:
            payload = download.payload[: message.payload_bytes].copy()
            before = (payload, message.version, message.seed)
        order = Order(list(jobs), set(jobs), version, threads, before)
        self._orders[rank].update(dict.fromkeys(jobs, order))

    def published(self, payload: np.ndarray, version: int, key: int) -> None:
        """q^version is sent to all."""
        if self.history is not None:
            oldest = min((o.version for own in self._orders.values() for o in own.values()), default=version)
            self.history.published(payload, version, key, needed=oldest)

    def took(self, rank: int, job: Job) -> bool:
        """A result. Whether it is wanted: not one that the batch's first worker had reported."""
        if rank not in self._workers.outstanding:
            return False
        self._workers.outstanding[rank] -= 1
        if not self._session.deaths.endured:
            return True
        order = self._orders[rank].pop(job)
        wanted = job in order.missing
        order.missing.discard(job)
        return wanted

    def forget(self) -> None:
        """No result of what was given so far is wanted."""
        for own in self._orders.values():
            for order in own.values():
                order.missing.clear()

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Around messages that belong together: what a dead worker had is given to others behind them."""
        before, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = before

    def look(self) -> None:
        """From every loop of rank 0's."""
        if self._busy:
            return
        with self.undisturbed():
            for rank in self._session.deaths.fresh():
                self._leave(rank)

    def _leave(self, rank: int) -> None:
        session, workers = self._session, self._workers
        workers.leave(rank)
        session.clocks.leave(rank)
        left = list(dict.fromkeys(order for order in self._orders.pop(rank).values() if order.missing))
        trainings = sum(len(order.missing) for order in left)
        said = (
            f"{trainings} trainings that it had been given go to others" if left else "nothing is left to do"
        )
        session.fault("rank died", rank, version=workers.version, in_flight=trainings, detail=said)
        print(f"qafel-mpi: {session.deaths.named(rank)} has died; {said}", file=sys.stderr, flush=True)
        if not workers.ranks:
            session.deaths.why = "no worker is left"
            session.deaths.look()
        for order in sorted(left, key=lambda order: order.version):
            self._give_again(order)

    def _give_again(self, order: Order) -> None:
        workers = self._workers
        rank = addressee(order.jobs, workers.outstanding, kept=False)
        workers.outstanding[rank] += len(order.jobs)
        self._orders[rank].update(dict.fromkeys(order.jobs, order))
        if order.download is not None:
            workers.redownload(rank, *order.download)
        elif order.version != workers.version:
            assert self.history is not None, "without it a death ends the run"
            workers.model(rank, self.history.at(order.version), order.version)
        workers.order(rank, order.jobs, order.version, order.threads)

    def evaluate(self, x: Tensor, parts: int, scores: dict[int, Evaluation]) -> None:
        """The parts of an evaluation that dead workers would have had; rank 0's score of a part is the same."""
        for rank in self._session.deaths.failures.gone:
            for part in range(rank - 1, parts, self._session.comm.size - 1):
                if part not in scores:
                    with evaluating():
                        examples = self._session.experiment.evaluation.examples
                        scores[part] = self._setup.task.evaluate_part(x, part, examples)
