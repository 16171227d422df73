"""A worker rank: obeys rank 0's stream of q^t and orders (remote.py), and sends results back as they come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import numpy as np

from qafel_mpi.drivers.build import RunSummary, Setup
from qafel_mpi.drivers.device_frames import frame_maker
from qafel_mpi.drivers.failures import EvaluationError, evaluating, frame_of
from qafel_mpi.drivers.rows import received_row, sent_row
from qafel_mpi.drivers.session import TAG_DOWN, TAG_UP, Session
from qafel_mpi.drivers.survival.kept import Giving, kept_of, rows_of
from qafel_mpi.drivers.survival.positions import Answering
from qafel_mpi.drivers.survival.resume import share, spread_kept
from qafel_mpi.drivers.survival.stopping import Stopped
from qafel_mpi.drivers.virtual.messages import PAIRS, PARTS, TAG_HALT, describe
from qafel_mpi.drivers.virtual.pull import trainer_of
from qafel_mpi.drivers.virtual.workers import Job, Result, use_threads
from qafel_mpi.kernels.memory import copy_of
from qafel_mpi.transport.frames import Frame, FramePool, Sends, new_frame
from qafel_mpi.transport.inbox import Inbox, Received
from qafel_mpi.wire import NO_CLIENT, Kind, Message, check

DOWN_SLOTS = 8  # receives that a worker keeps posted


class Worker:
    """A worker rank: obeys the stream in order."""

    def __init__(self, session: Session, setup: Setup):
        self.session, self.setup, self.comm = session, setup, session.comm
        self.trainer = trainer_of(setup, setup.client(), session)
        self.replica = self.trainer.client.replica
        self.described = describe(setup)
        orders = (Kind.BROADCAST, Kind.DOWNLOAD, Kind.TRAIN, Kind.EVALUATE, Kind.MODEL, Kind.STOP)
        self.expected = {kind: self.described[kind] for kind in orders}
        largest = max(e.payload_bytes for e in self.expected.values())
        self.inbox = Inbox(self.comm, TAG_DOWN, payload_bytes=largest, slots=DOWN_SLOTS, source=0)
        self.halts = Inbox(self.comm, TAG_HALT, payload_bytes=0, slots=1, source=0)
        self.sends = Sends(self.comm, TAG_UP)
        make = frame_maker(setup, self.replica.x_hat)
        self.pool = FramePool(
            self.described[Kind.UPDATE].payload_bytes, limit=4 * setup.task.together + 4, make=make
        )
        self.answers = 0
        self.halted = self.stopped = False
        self.earlier: tuple[int, np.ndarray] | None = (
            None  # x̂ of an earlier version, for what a dead worker left
        )
        self.positions = Answering(self.comm)
        self.giving = Giving(self.comm)

    @property
    def received(self) -> int:
        return self.inbox.total + self.halts.total

    def run(self) -> None:
        by_one = self.session.by_one
        while not (self.stopped and self.halted):
            self.session.wait(self._turn, lambda: by_one("rank 0's next order"))
        self.session.wait(self._idle, lambda: by_one("rank 0 to take its last updates"))
        self.sends.post(new_frame(0).seal(Kind.BYE, sequence=self.answers), 0)
        self.session.wait(self._idle, lambda: by_one("rank 0 to take its goodbye"))
        self.inbox.close()
        self.halts.close()
        self.positions.close()
        self.giving.close()

    def take_up(self) -> None:
        """Collective, of a run that is resumed: what this rank's clients keep, shared out by messages.addressee."""
        kept: dict[int, tuple[bytes, int]] = {}
        workers, place = self.comm.size - 1, self.comm.rank - 1
        spread_kept(
            self.session,
            take=lambda rows: kept.update(kept_of(rows, lambda client: client % workers == place)),
        )
        self.trainer.restore(kept)

    def _turn(self) -> bool:
        """Whether there was an order, or there will be none."""
        arrived = self.inbox.poll()
        for received in arrived:
            self._obey(received)
        idle, total = self._idle(), self.inbox.total
        if self.positions.answer(self.session.recorder, idle=idle, received=total) and self.setup.kept:
            self.giving.give(rows_of(self.trainer.kept()))
        self._look_for_halt()
        self.session.keep_books()
        return bool(arrived) or (self.stopped and self.halted)

    def _between_steps(self) -> None:
        """Of a training. Raises Stopped where nobody will take its result."""
        self._look_for_halt()
        self.session.keep_books()
        if self.halted:
            raise Stopped

    def _look_for_halt(self) -> None:
        for received in self.halts.poll():
            self.halted = True
            self._checked(received, self.halts)

    def _checked(self, received: Received, inbox: Inbox) -> tuple[Message, np.ndarray]:
        """The message, its payload copied where the slot is needed again; recorded."""
        begin_s = perf_counter()
        message = check(received.data, self.expected, rank=0)
        payload = received.payload
        match message.kind:
            case Kind.BROADCAST:
                self.replica.apply(payload, message.seed, message.version)
            case Kind.DOWNLOAD:
                self.trainer.download(payload, message.seed, message.version)
            case Kind.MODEL if self.setup.unicast:  # a resumed run's client, in a replay
                self.replica.catch_up(payload, self.setup.full, message.version)
            case _:
                payload = payload.copy()
        end_s = perf_counter()
        inbox.release(received.slot)
        self.session.recorder.messages.append(received_row(received, message, self.comm.rank, begin_s, end_s))
        return message, payload

    def _obey(self, received: Received) -> None:
        message, payload = self._checked(received, self.inbox)
        self._look_for_halt()
        match message.kind:
            case Kind.STOP:
                self.stopped = True
            case Kind.TRAIN if not self.halted:
                use_threads(message.seed)  # a TRAIN draws no random numbers
                self._train([(c, n) for c, n in payload.view(PAIRS).reshape(-1, 2).tolist()], message.version)
            case Kind.EVALUATE:
                self._evaluate(payload)
            case Kind.MODEL if not self.setup.unicast:
                self.earlier = (message.version, payload)

    @contextmanager
    def _at(self, version: int) -> Iterator[None]:
        """With x̂ of this version: the newest one, or for the time of a training the one that was sent in full."""
        if version == self.replica.version:
            yield
            return
        if self.earlier is None or self.earlier[0] != version:
            raise RuntimeError(f"told to train from version {version}, holds version {self.replica.version}")
        newest, x_hat = self.replica.version, copy_of(self.replica.x_hat)
        self.replica.catch_up(self.earlier[1], self.setup.full, version)
        try:
            yield
        finally:
            self.replica.x_hat.copy_(x_hat)
            self.replica.version = newest

    def _train(self, jobs: list[Job], version: int) -> None:
        frames = [self._free_frame() for _ in jobs]
        begun_s, outs = perf_counter(), [frame.payload for frame in frames]
        try:
            with self._at(version):
                results = self.trainer.train(jobs, self.replica.x_hat, outs, self._between_steps)
        except Stopped:
            for frame in frames:
                self.pool.release(frame)
            return
        seconds = (perf_counter() - begun_s) / len(jobs)
        # They were encoded in one call: each has an equal share of it.
        times = np.linspace(*self.trainer.encoding_s, len(jobs) + 1).tolist()
        for i, (frame, job, result) in enumerate(zip(frames, jobs, results, strict=True)):
            frame.t_encode_begin, frame.t_encode_end = times[i : i + 2]
            self._answer(frame, job, result, version, seconds)
        self._idle()

    def _answer(self, frame: Frame, job: Job, result: Result, version: int, seconds: float) -> None:
        kind, size = Kind.UPDATE, len(result.payload)
        if result.error:
            self.pool.release(frame)
            kind, frame = Kind.DIVERGED, frame_of(result.error)
            size = frame.payload.size
        frame.seal(
            kind,
            expected=self.described[kind],
            payload_bytes=size,
            client=job[0],
            version=version,
            sequence=job[1],
            seed=result.key,
            loss=result.loss,
            train_seconds=seconds,
        )
        self._send(frame)

    def _evaluate(self, payload: np.ndarray) -> None:
        """This rank's share of the parts: every (size − 1)-th, as rank 0 counts on."""
        task, examples = self.setup.task, self.session.experiment.evaluation.examples
        x = self.setup.x0.clone()
        self.setup.full.decode(payload, x, 0)
        kind, client = Kind.SCORE, 0
        try:
            with evaluating():
                parts = range(self.comm.rank - 1, task.parts(examples), self.comm.size - 1)
                each = [(part, task.evaluate_part(x, part, examples)) for part in parts]
        except EvaluationError as error:
            kind, client = Kind.DIVERGED, NO_CLIENT
            frame = frame_of(f"{error} (rank {self.comm.rank} on {self.session.placement.host})")
        else:
            rows = [(part, e.loss, e.accuracy, e.examples, e.answers) for part, e in each]
            scores = np.array(rows, dtype=PARTS).view(np.uint8)
            frame = new_frame(scores.size)
            frame.payload[:] = scores
        size = frame.payload.size
        self._send(frame.seal(kind, expected=self.described[kind], payload_bytes=size, client=client))

    def _send(self, frame: Frame) -> None:
        self.sends.post(frame, 0)
        self.answers += 1

    def _free_frame(self) -> Frame:
        def is_free() -> bool:
            self._idle()
            return bool(self.pool.free)

        frame = self.pool.acquire()
        if frame is None:
            self.session.wait(is_free, lambda: self.session.by_one("rank 0 to take an update"))
            frame = self.pool.acquire()
        assert frame is not None
        return frame

    def _idle(self) -> bool:
        """Complete answers; whether none is under way."""
        for sent in self.sends.poll():
            self.session.recorder.messages.append(sent_row(sent, self.comm.rank))
            if sent.message.kind == Kind.UPDATE:
                self.pool.release(sent.frame)
        return not len(self.sends)


def work(session: Session, setup: Setup) -> RunSummary:
    """A worker rank's part of the run."""
    worker = Worker(session, setup)
    if session.recovery.goes_on:
        share(session, worker.replica)
        if setup.kept:
            worker.take_up()
    worker.run()
    session.close(
        worker.replica.version,
        worker.replica.x_hat,
        sent=worker.sends.total,
        received=worker.received,
        shared_state=not setup.unicast,
    )
    return session.finish(None, None)
