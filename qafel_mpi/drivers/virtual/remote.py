"""Worker ranks: rank 0 sends each an ordered stream of q^t and orders, and they send results back as they come.

MPI's non-overtaking rule makes a worker's replica exactly version t when it reads TRAIN(…, t).
"""

from __future__ import annotations

from collections.abc import Collection
from time import perf_counter

import numpy as np
from mpi4py import MPI
from torch import Tensor

from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.device_frames import frame_maker
from qafel_mpi.drivers.failures import EvaluationError, evaluating, frame_of
from qafel_mpi.drivers.rows import received_row, sent_row
from qafel_mpi.drivers.session import TAG_DOWN, TAG_UP, Session
from qafel_mpi.drivers.survival.positions import Answering
from qafel_mpi.drivers.survival.stopping import Stopped
from qafel_mpi.drivers.virtual.messages import PAIRS, PARTS, addressee, describe
from qafel_mpi.drivers.virtual.pull import trainer_of
from qafel_mpi.drivers.virtual.workers import Job, Result, use_threads
from qafel_mpi.tasks import Evaluation
from qafel_mpi.tasks.base import Poll
from qafel_mpi.transport.backoff import some_ranks
from qafel_mpi.transport.frames import Frame, FramePool, Inbox, Received, Sends, Sent, new_frame
from qafel_mpi.wire import NO_CLIENT, Kind, Message, check

TAG_HALT = 13  # a STOP that overtakes the orders: what is still to be trained is of no use any more
QUEUE_LIMIT = 4096  # messages that a worker may be behind before rank 0 waits for it
DOWN_SLOTS = 8  # receives that a worker keeps posted


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
        self.outstanding = dict.fromkeys(self.ranks, 0)
        self.to_say_goodbye = set(self.ranks)
        self.version = 0
        self._evaluators = self.ranks if gpus or setup.task.parts(self._examples) > 1 else []
        self._scores: dict[int, Evaluation] = {}
        self._unevaluated = ""  # why a worker could not evaluate its parts
        self._results: dict[Job, Result] = {}
        self._sequence = 0
        self._download: Frame | None = None

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
        if self._download is not None:
            self._post(self._download, rank)
            self._download = None
        pairs = np.array(list(jobs), dtype=PAIRS).reshape(-1).view(np.uint8)
        self._post(self._frame(self.orders, Kind.TRAIN, pairs, version, threads), rank)
        self.outstanding[rank] += len(jobs)
        self.poll()

    def publish(self, payload: np.ndarray, version: int, key: int) -> None:
        frame = self._frame(self.broadcasts, Kind.BROADCAST, payload, version, key)
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
            self.session.wait(there, lambda: f"the update of client {job[0]}, from one of {self._busy()}")
        return self._results.pop(job)

    def evaluate(self, x: Tensor) -> Evaluation:
        """Its parts are spread over the workers, behind the trainings of each. Raises EvaluationError where one
        can't, and nothing is to be evaluated after that."""
        parts = self.setup.task.parts(self._examples)
        if not (evaluators := self._evaluators[:parts]):
            with evaluating():
                return self.setup.task.evaluate(x, self._examples)
        frame = self._acquire(self.evaluations)
        size = self.setup.full.encode(x, frame.payload, 0)
        self._seal(frame, Kind.EVALUATE, payload_bytes=size, version=self.version)
        for rank in evaluators:
            self._post(frame, rank)
        self._scores.clear()

        def scored() -> bool:
            self.poll()
            return len(self._scores) == parts or bool(self._unevaluated)

        self.session.wait(scored, lambda: f"parts of an evaluation from {self._unscored(parts)}")
        if self._unevaluated:
            raise EvaluationError(self._unevaluated)
        return Evaluation.combined([self._scores[part] for part in range(parts)])

    def _unscored(self, parts: int) -> str:
        """Who owes parts of an evaluation, in words. Every worker has each len(ranks)-th part."""
        count = len(self.ranks)
        return some_ranks({1 + part % count for part in range(parts) if part not in self._scores})

    def _busy(self) -> str:
        """Who has trainings to report, in words."""
        return some_ranks(rank for rank, trainings in self.outstanding.items() if trainings)

    def poll(self) -> bool:
        """Take what has arrived, complete what was sent. Returns whether anything happened."""
        arrived = self.inbox.poll()
        for received in arrived:
            self._take(received)
        done = self.sends.poll() + self.halts.poll()
        for sent in done:
            self.session.recorder.messages.append(sent_row(sent, 0))
            if sent.last:
                self._recycle(sent)
        self.session.keep_books()
        if arrived or done:
            self.session.backoff.reset()
        return bool(arrived or done)

    def halt(self) -> None:
        self._stop_all(self.halts)

    def _stop_all(self, sends: Sends) -> None:
        stop = self._seal(new_frame(0), Kind.STOP, version=self.version)
        for rank in self.ranks:
            sends.post(stop, rank)

    def stop(self) -> None:
        self._stop_all(self.sends)

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
                key, loss = message.seed, message.loss
                self._results[job] = Result(payload.copy(), key, loss, error, received.source)
                self.outstanding[received.source] -= 1
        self.inbox.release(received.slot)
        self.session.recorder.messages.append(received_row(received, message, 0, begin_s, perf_counter()))

    def _post(self, frame: Frame, rank: int) -> None:
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

    def _recycle(self, sent: Sent) -> None:
        match sent.message.kind:  # not by size: a model may be as large as a broadcast
            case Kind.BROADCAST | Kind.DOWNLOAD:
                self.broadcasts.release(sent.frame)
            case Kind.TRAIN:
                self.orders.release(sent.frame)
            case Kind.EVALUATE | Kind.MODEL:
                self.evaluations.release(sent.frame)


class Worker:
    """A worker rank: obeys the stream in order."""

    def __init__(self, session: Session, setup: Setup):
        self.session, self.setup, self.comm = session, setup, session.comm
        self.trainer = trainer_of(setup, setup.client(), session)
        self.replica = self.trainer.client.replica
        self.described = describe(setup)
        orders = (Kind.BROADCAST, Kind.DOWNLOAD, Kind.MODEL, Kind.TRAIN, Kind.EVALUATE, Kind.STOP)
        self.expected = {kind: self.described[kind] for kind in orders}
        largest = max(e.payload_bytes for e in self.expected.values())
        self.inbox = Inbox(self.comm, TAG_DOWN, payload_bytes=largest, slots=DOWN_SLOTS, source=0)
        self.halts = Inbox(self.comm, TAG_HALT, payload_bytes=0, slots=1, source=0)
        self.sends = Sends(self.comm, TAG_UP)
        size, most = self.described[Kind.UPDATE].payload_bytes, 4 * setup.task.together + 4
        self.pool = FramePool(size, limit=most, make=frame_maker(setup, self.replica.x_hat))
        self.answers = 0
        self.halted = self.stopped = False
        self.positions = Answering(self.comm)

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

    def _turn(self) -> bool:
        """Whether there was an order, or there will be none."""
        arrived = self.inbox.poll()
        for received in arrived:
            self._obey(received)
        self.positions.answer(self.session.recorder, idle=self._idle(), received=self.inbox.total)
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
            case Kind.MODEL:
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

    def _train(self, jobs: list[Job], version: int) -> None:
        if version != self.replica.version:
            raise RuntimeError(f"told to train from version {version}, holds version {self.replica.version}")
        frames = [self._free_frame() for _ in jobs]
        begun_s, outs = perf_counter(), [frame.payload for frame in frames]
        try:
            results = self.trainer.train(jobs, self.replica.x_hat, outs, self._between_steps)
        except Stopped:
            for frame in frames:
                self.pool.release(frame)
            return
        seconds = (perf_counter() - begun_s) / len(jobs)
        times = np.linspace(*self.trainer.encoding_s, len(jobs) + 1).tolist()  # of one call: equal shares
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
