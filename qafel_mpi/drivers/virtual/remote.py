"""Rank 0's side of worker ranks: it sends each an ordered stream of q^t and orders, and takes results as they come.

MPI's non-overtaking rule makes a worker's replica exactly version t when it reads TRAIN(…, t).
"""

from __future__ import annotations

from collections.abc import Collection
from time import perf_counter

import numpy as np
from mpi4py import MPI
from torch import Tensor

from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.failures import EvaluationError, evaluating
from qafel_mpi.drivers.rows import received_row, sent_row
from qafel_mpi.drivers.session import TAG_DOWN, TAG_UP, Session
from qafel_mpi.drivers.virtual.handover import Handover
from qafel_mpi.drivers.virtual.messages import PAIRS, PARTS, TAG_HALT, addressee, describe
from qafel_mpi.drivers.virtual.outstanding import Outstanding
from qafel_mpi.drivers.virtual.workers import Job, Result
from qafel_mpi.tasks import Evaluation
from qafel_mpi.tasks.base import Poll
from qafel_mpi.transport.backoff import some_ranks
from qafel_mpi.transport.frames import Frame, FramePool, Sends, new_frame
from qafel_mpi.transport.inbox import Inbox, Received
from qafel_mpi.wire import NO_CLIENT, Kind, check

QUEUE_LIMIT = 4096  # messages that a worker may be behind before rank 0 waits for it


class RemoteWorkers:
    """Rank 0's side. gpus: they evaluate, too. poll: while it waits for a result; it may raise Stopped."""

    def __init__(self, session: Session, setup: Setup, *, gpus: bool, poll: Poll):
        self.session, self.setup, self._between_polls = session, setup, poll
        comm = session.comm
        self.ranks = list(range(1, comm.size))
        self.described = describe(setup)
        answers = (Kind.UPDATE, Kind.DIVERGED, Kind.SCORE, Kind.BYE)
        self.expected = {kind: self.described[kind] for kind in answers}
        self.sends = Sends(comm, TAG_DOWN)
        self.halts = Sends(comm, TAG_HALT)
        slots = min(session.experiment.transport.receive_slots, 4 * len(self.ranks))
        largest = max(e.payload_bytes for e in self.expected.values())
        self.inbox = Inbox(comm, TAG_UP, payload_bytes=largest, slots=slots, source=MPI.ANY_SOURCE)
        self.broadcasts = FramePool(setup.downlink.payload_bytes())
        self.orders = FramePool(self.described[Kind.TRAIN].payload_bytes)
        self.evaluations = FramePool(setup.full.payload_bytes())
        self.outstanding = Outstanding(self.ranks)  # trainings that each has to report
        self.to_say_goodbye = set(self.ranks)
        self.version = 0
        self._evaluators = self.ranks if gpus or setup.task.parts(self._examples) > 1 else []
        self._scores: dict[int, Evaluation] = {}
        self._unevaluated = ""  # why a worker could not evaluate its parts
        self._awaited: set[Job] = set()  # handed out, neither here nor forgotten
        self._results: dict[Job, Result] = {}
        self._sequence = 0
        self._stopping = False  # every worker has its STOP: it takes nothing behind that
        self._download: Frame | None = None
        self.handover = Handover(session, setup, self)

    @property
    def _examples(self) -> int | None:
        return self.session.experiment.evaluation.examples

    @property
    def sent(self) -> int:
        return self.sends.total + self.halts.total

    @property
    def received(self) -> int:
        return self.inbox.total

    def train(self, jobs: Collection[Job], version: int, threads: int = 0) -> None:
        """As one batch, to one worker; which one has no effect on the result."""
        rank = addressee(jobs, self.outstanding, kept=self.setup.kept)
        self.outstanding[rank] += len(jobs)
        self._awaited.update(jobs)
        with self.handover.undisturbed():
            self.handover.given(rank, jobs, version, threads, self._download)
            if self._download is not None:
                self._post(self._download, rank)
                self._download = None
            self.order(rank, jobs, version, threads)
        self.poll()

    def order(self, rank: int, jobs: Collection[Job], version: int, threads: int) -> None:
        """TRAIN: the batch, on the version that the rank holds then."""
        pairs = np.array(list(jobs), dtype=PAIRS).reshape(-1).view(np.uint8)
        self._post(self._frame(self.orders, Kind.TRAIN, pairs, version, threads), rank)

    def publish(self, payload: np.ndarray, version: int, key: int) -> None:
        frame = self._frame(self.broadcasts, Kind.BROADCAST, payload, version, key)
        with self.handover.undisturbed():
            self.handover.published(payload, version, key)
            for rank in self.ranks:
                self._post(frame, rank)
            self.version = version + 1
        self.poll()

    def download(self, payload: np.ndarray, version: int, key: int) -> None:
        self._download = self._frame(self.broadcasts, Kind.DOWNLOAD, payload, version, key)

    def take(self, job: Job) -> Result:
        def there() -> bool:
            self._between_polls()
            self.poll()
            return job in self._results

        if job not in self._results:
            self.session.wait(there, lambda: self._owed(job))
        return self._results.pop(job)

    def forget(self) -> None:
        self._awaited.clear()
        self._results.clear()
        self.handover.forget()

    def evaluate(self, x: Tensor) -> Evaluation:
        """Its parts are spread over the workers, behind the trainings of each. Raises EvaluationError where one
        can't, and nothing is to be evaluated after that."""
        parts = self.setup.task.parts(self._examples)
        if not (evaluators := [rank for rank in self._evaluators if rank <= parts]):
            with evaluating():
                return self.setup.task.evaluate(x, self._examples)
        frame = self._acquire(self.evaluations)
        size = self.setup.full.encode(x, frame.payload, 0)
        self._seal(frame, Kind.EVALUATE, payload_bytes=size, version=self.version)
        self._scores.clear()
        with self.handover.undisturbed():
            for rank in evaluators:
                self._post(frame, rank)

        def scored() -> bool:
            self.poll()
            self.handover.evaluate(x, parts, self._scores)
            return len(self._scores) == parts or bool(self._unevaluated)

        self.session.wait(scored, lambda: f"parts of an evaluation from {self._unscored(parts)}")
        if self._unevaluated:
            raise EvaluationError(self._unevaluated)
        return Evaluation.combined([self._scores[part] for part in range(parts)])

    def _unscored(self, parts: int) -> str:
        """Who owes parts of an evaluation, in words. Every worker has each len(ranks)-th part."""
        count = self.session.comm.size - 1
        return some_ranks({1 + part % count for part in range(parts) if part not in self._scores})

    def _busy(self) -> str:
        """Who has trainings to report, in words."""
        return some_ranks(rank for rank, trainings in self.outstanding.items() if trainings) or "no rank"

    def _owed(self, job: Job) -> str:
        """Whose update is waited for, in words."""
        of = f"the update of client {job[0]}, participation {job[1]}"
        return f"{of}, from {self._busy()}" if job in self._awaited else f"{of}, which no rank was given"

    def poll(self) -> bool:
        """Take what has arrived, complete what was sent. Returns whether anything happened."""
        arrived = self.inbox.poll()
        for received in arrived:
            self._take(received)
        done = self.sends.poll() + self.halts.poll()
        for sent in done:
            self.session.recorder.messages.append(sent_row(sent, 0))
            if sent.last:
                self._recycle(sent.message.kind, sent.frame)
        lost, self.sends.lost = self.sends.lost, []
        for frame, message in lost:
            self._recycle(message.kind, frame)
        self.session.keep_books()
        self.handover.look()
        if arrived or done:
            self.session.backoff.moved()
        return bool(arrived or done)

    def halt(self) -> None:
        self.forget()
        self._stop_all(self.halts)

    def _stop_all(self, sends: Sends) -> None:
        stop = self._seal(new_frame(0), Kind.STOP, version=self.version)
        for rank in self.ranks:
            sends.post(stop, rank)

    def stop(self) -> None:
        self._stop_all(self.sends)
        self._stopping = True

        def accounted() -> bool:
            self.poll()
            return not (self.to_say_goodbye or len(self.sends) or len(self.halts))

        def late() -> set[int]:
            return self.to_say_goodbye or {*self.sends.late(), *self.halts.late()}

        self.session.wait(accounted, lambda: f"the goodbyes of {some_ranks(late())}")
        self._results.clear()
        self.inbox.close()

    def _take(self, received: Received) -> None:
        begin_s = perf_counter()
        message = check(received.data, self.expected, rank=received.source)
        payload = received.payload
        match message.kind:
            case Kind.BYE:
                self.to_say_goodbye.discard(received.source)
            case Kind.SCORE:
                for part, *score in payload.view(PARTS).tolist():
                    self._scores[part] = Evaluation(*score)
            case Kind.DIVERGED if message.client == NO_CLIENT:
                self._unevaluated = self._unevaluated or payload.tobytes().decode(errors="replace")
            case kind:
                job, error = (message.client, message.sequence), ""
                if kind == Kind.DIVERGED:
                    error, payload = payload.tobytes().decode(errors="replace"), payload[:0]
                if self.handover.took(received.source, job) and job in self._awaited:
                    self._awaited.remove(job)
                    copied = payload.copy()
                    self._results[job] = Result(copied, message.seed, message.loss, error, received.source)
        self.inbox.release(received.slot)
        self.session.recorder.messages.append(received_row(received, message, 0, begin_s, perf_counter()))

    def _post(self, frame: Frame, rank: int) -> None:
        assert not self._stopping, f"rank {rank} takes nothing behind its STOP"
        if self.sends.under_way(rank) >= QUEUE_LIMIT:
            self.session.wait(
                lambda: self.poll() and self.sends.under_way(rank) < QUEUE_LIMIT,
                lambda: f"rank {rank}, which is {QUEUE_LIMIT} messages behind",
            )
        self.sends.post(frame, rank)

    def _frame(self, pool: FramePool, kind: Kind, payload: np.ndarray, version: int, key: int = 0) -> Frame:
        frame = self._acquire(pool)
        frame.payload[: payload.size] = payload
        return self._seal(frame, kind, payload_bytes=payload.size, version=version, seed=key)

    def _acquire(self, pool: FramePool) -> Frame:
        frame = pool.acquire()
        assert frame is not None, "this pool has no limit: what is in flight bounds it"
        return frame

    def _seal(self, frame: Frame, kind: Kind, **fields: int) -> Frame:
        self._sequence += 1
        return frame.seal(kind, expected=self.described[kind], sequence=self._sequence, **fields)

    def _recycle(self, kind: int, frame: Frame) -> None:
        match kind:  # not by size: a model may be as large as a broadcast
            case Kind.BROADCAST | Kind.DOWNLOAD:
                self.broadcasts.release(frame)
            case Kind.TRAIN:
                self.orders.release(frame)
            case Kind.EVALUATE | Kind.MODEL:
                self.evaluations.release(frame)

    def leave(self, rank: int) -> None:
        """A worker has died: it is given nothing any more."""
        self.ranks.remove(rank)
        self.outstanding.pop(rank)
        self.to_say_goodbye.discard(rank)
        self._evaluators = [each for each in self._evaluators if each != rank]

    def model(self, rank: int, x: Tensor, version: int) -> None:
        """x̂^version in full, for the orders from this version that follow."""
        frame = self._acquire(self.evaluations)
        size = self.setup.full.encode(x, frame.payload, 0)
        self._post(self._seal(frame, Kind.MODEL, payload_bytes=size, version=version), rank)

    def redownload(self, rank: int, payload: np.ndarray, version: int, key: int) -> None:
        """A download that a dead worker had been sent, for the order that follows."""
        self._post(self._frame(self.broadcasts, Kind.DOWNLOAD, payload, version, key), rank)
