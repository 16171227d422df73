"""Who trains the virtual clients: this process, or worker ranks that follow the ordered stream of rank 0.

Both compute the same batches of the same clients from the same version, so that results don't depend on which
of them, or how many, there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from qafel_mpi.algorithms.client import Client
from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.rows import received_row, sent_row
from qafel_mpi.drivers.session import TAG_DOWN, TAG_UP, Session
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.transport.frames import Frame, FramePool, Inbox, Received, Sends, new_frame
from qafel_mpi.wire import HEADER_BYTES, Kind, Message, check

Job = tuple[int, int]  # (client, participation)
PAIRS = np.dtype("<i8")


class Result(NamedTuple):
    """A trained client's upload, until the server reads it in its turn."""

    payload: np.ndarray
    key: int
    loss: float


class Workers(Protocol):
    """Trains batches of clients from the newest version; hands out results in whatever order they are asked for."""

    @property
    def sent(self) -> int:
        """Messages so far."""

    @property
    def received(self) -> int:
        """Messages so far."""

    def train(self, jobs: Sequence[Job], version: int) -> None:
        """Train these clients as one batch, from version t = `version`: the last published, or downloaded."""

    def publish(self, payload: np.ndarray, version: int, key: int) -> None:
        """q^t, for every worker's replica; its bytes are the caller's again when this returns."""

    def download(self, payload: np.ndarray, version: int, key: int) -> None:
        """A unicast download, for the next batch alone."""

    def take(self, job: Job) -> Result:
        """The result of a job that was handed out; waits for it."""

    def stop(self) -> None:
        """End the workers; every message is accounted for."""


class Trainer:
    """Trains batches and encodes their updates; the same on rank 0 alone and on a worker."""

    def __init__(self, setup: Setup, client: Client):
        self.setup, self.client = setup, client
        d = setup.task.layout.elements
        self.deltas = torch.empty((setup.task.together, d), dtype=setup.task.dtype)

    def train(
        self, jobs: Sequence[Job], start: Tensor, buffer: Callable[[], np.ndarray]
    ) -> list[tuple[Job, np.ndarray, int, int, float]]:
        """[(job, buffer that holds the payload, payload bytes, key, loss)]. buffer: gives one for each job."""
        seed = self.setup.experiment.seed
        self.client.begin()
        seeds = [derive(seed, Stream.SHUFFLE, c, p) for c, p in jobs]
        deltas = self.deltas[: len(jobs)]
        results = self.setup.task.train_together([c for c, _ in jobs], start, deltas, seeds)
        made = []
        for row, ((client, participation), result) in enumerate(zip(jobs, results, strict=True)):
            out = buffer()
            size, key = self.client.encode(deltas[row], out, client=client, participation=participation)
            # The header carries a float32: what is recorded must not depend on who trained.
            made.append(((client, participation), out, size, key, float(np.float32(result.loss))))
        return made


class LocalWorkers:
    """No workers: rank 0 trains itself, on its own hidden state."""

    sent = received = 0

    def __init__(self, setup: Setup, client: Client):
        self.setup = setup
        self.trainer = Trainer(setup, client)
        self.replica = client.replica
        self.start = torch.empty_like(self.replica.x_hat) if setup.unicast else self.replica.x_hat
        self._results: dict[Job, Result] = {}
        self._free: list[np.ndarray] = []

    def train(self, jobs: Sequence[Job], version: int) -> None:
        for job, buffer, size, key, loss in self.trainer.train(jobs, self.start, self._buffer):
            self._results[job] = Result(buffer[:size], key, loss)

    def publish(self, payload: np.ndarray, version: int, key: int) -> None:
        """The server has moved the hidden state already: it is the one that is trained on."""

    def download(self, payload: np.ndarray, version: int, key: int) -> None:
        self.setup.downlink.decode(payload, self.start, key)

    def take(self, job: Job) -> Result:
        result = self._results.pop(job)
        base = result.payload.base
        self._free.append(result.payload if base is None else base)
        return result

    def stop(self) -> None:
        self._results.clear()

    def _buffer(self) -> np.ndarray:
        # A taken result's buffer is used again at the next training, after the server has read it.
        return self._free.pop() if self._free else np.empty(self.setup.uplink.payload_bytes(), np.uint8)


class RemoteWorkers:
    """Rank 0's side: an ordered stream of q^t and TRAIN to each worker, updates back as they come."""

    def __init__(self, session: Session, setup: Setup):
        self.session, self.setup = session, setup
        comm = session.comm
        self.ranks = list(range(1, comm.size))
        self.described = setup.expected()
        self.expected = {kind: self.described[kind] for kind in (Kind.UPDATE, Kind.BYE)}
        self.sends = Sends(comm, TAG_DOWN)
        slots = min(session.experiment.transport.receive_slots, 4 * len(self.ranks))
        self.inbox = Inbox(
            comm, TAG_UP, payload_bytes=setup.uplink.payload_bytes(), slots=slots, source=MPI.ANY_SOURCE
        )
        self.broadcasts = FramePool(setup.downlink.payload_bytes())
        self.orders = FramePool(self.described[Kind.TRAIN].payload_bytes)
        self.outstanding = dict.fromkeys(self.ranks, 0)
        self.goodbyes = 0
        self.version = 0
        self._results: dict[Job, Result] = {}
        self._sequence = 0
        self._download: Frame | None = None

    @property
    def sent(self) -> int:
        return self.sends.total

    @property
    def received(self) -> int:
        return self.inbox.total

    def train(self, jobs: Sequence[Job], version: int) -> None:
        """To the worker with the least to do; which one has no effect on the result."""
        rank = min(self.ranks, key=self.outstanding.__getitem__)
        if self._download is not None:
            self.sends.post(self._download, rank)
            self._download = None
        frame = self._acquire(self.orders)
        pairs = np.array(jobs, dtype=PAIRS).reshape(-1)
        frame.payload[: pairs.nbytes] = pairs.view(np.uint8)
        self._seal(frame, Kind.TRAIN, payload_bytes=pairs.nbytes, version=version)
        self.sends.post(frame, rank)
        self.outstanding[rank] += len(jobs)
        self.poll()

    def publish(self, payload: np.ndarray, version: int, key: int) -> None:
        frame = self._frame(Kind.BROADCAST, payload, version, key)
        for rank in self.ranks:
            self.sends.post(frame, rank)
        self.version = version + 1
        self.poll()

    def download(self, payload: np.ndarray, version: int, key: int) -> None:
        self._download = self._frame(Kind.DOWNLOAD, payload, version, key)

    def take(self, job: Job) -> Result:
        if job not in self._results:
            self.session.wait(
                lambda: (self.poll() and job in self._results) or job in self._results,
                lambda: f"the update of client {job[0]}; still to report, by rank: {self.outstanding}",
            )
        return self._results.pop(job)

    def poll(self) -> bool:
        """Take what has arrived, complete what was sent. Returns whether anything happened."""
        arrived = self.inbox.poll()
        for received in arrived:
            self._take(received)
        done = self.sends.poll()
        for sent in done:
            self.session.recorder.messages.append(sent_row(sent, 0))
            if sent.last:
                self._recycle(sent.frame)
        self.session.recorder.flush_if_due()
        if arrived or done:
            self.session.backoff.reset()
        return bool(arrived or done)

    def stop(self) -> None:
        stop = new_frame(0)
        self._seal(stop, Kind.STOP, version=self.version)
        for rank in self.ranks:
            self.sends.post(stop, rank)

        def accounted() -> bool:
            self.poll()
            return self.goodbyes == len(self.ranks) and not len(self.sends)

        self.session.wait(accounted, lambda: f"the goodbyes of {len(self.ranks) - self.goodbyes} workers")
        self._results.clear()
        self.inbox.close()

    def _take(self, received: Received) -> None:
        begin_s = perf_counter()
        message = check(received.buffer, received.wire_bytes, self.expected, rank=received.source)
        if message.kind == Kind.BYE:
            self.goodbyes += 1
        else:
            payload = received.buffer[HEADER_BYTES : received.wire_bytes].copy()
            self._results[message.client, message.sequence] = Result(payload, message.seed, message.loss)
            self.outstanding[received.source] -= 1
        self.inbox.release(received.slot)
        self.session.recorder.messages.append(received_row(received, message, 0, begin_s, perf_counter()))

    def _frame(self, kind: Kind, payload: np.ndarray, version: int, key: int) -> Frame:
        frame = self._acquire(self.broadcasts)
        frame.payload[: payload.size] = payload
        return self._seal(frame, kind, payload_bytes=payload.size, version=version, seed=key)

    def _seal(self, frame: Frame, kind: Kind, **fields: int) -> Frame:
        self._sequence += 1
        return frame.seal(kind, expected=self.described[kind], sequence=self._sequence, **fields)

    @staticmethod
    def _acquire(pool: FramePool) -> Frame:
        frame = pool.acquire()
        assert frame is not None, "this pool has no limit: what is in flight bounds it"
        return frame

    def _recycle(self, frame: Frame) -> None:
        for pool in (self.broadcasts, self.orders):
            if frame.payload.size == pool.payload_bytes:
                pool.release(frame)
                return


class Worker:
    """A worker rank: reads the stream in order, so that its replica is exactly version t at TRAIN(…, t)."""

    DOWN_SLOTS = 8

    def __init__(self, session: Session, setup: Setup):
        self.session, self.setup, self.comm = session, setup, session.comm
        client = setup.client()
        self.trainer, self.replica = Trainer(setup, client), client.replica
        self.described = setup.expected()
        self.expected = {k: self.described[k] for k in (Kind.BROADCAST, Kind.DOWNLOAD, Kind.TRAIN, Kind.STOP)}
        largest = max(self.expected[kind].payload_bytes for kind in self.expected)
        self.inbox = Inbox(self.comm, TAG_DOWN, payload_bytes=largest, slots=self.DOWN_SLOTS, source=0)
        self.sends = Sends(self.comm, TAG_UP)
        self.pool = FramePool(setup.uplink.payload_bytes(), limit=4 * setup.task.together + 4)
        self.uploads = 0
        self.stopped = False

    def run(self) -> None:
        self.session.wait(self._turn, lambda: "rank 0's next order")
        self.session.wait(self._idle, lambda: "rank 0 to take its last updates")
        self.sends.post(new_frame(0).seal(Kind.BYE, sequence=self.uploads), 0)
        self.session.wait(self._idle, lambda: "rank 0 to take its goodbye")
        self.inbox.close()

    def _turn(self) -> bool:
        for received in self.inbox.poll():
            self._obey(received)
            self.session.backoff.reset()
        self._idle()
        self.session.recorder.flush_if_due()
        return self.stopped

    def _obey(self, received: Received) -> None:
        begin_s = perf_counter()
        message = check(received.buffer, received.wire_bytes, self.expected, rank=0)
        payload = received.buffer[HEADER_BYTES : received.wire_bytes]
        jobs: list[Job] = []
        match message.kind:
            case Kind.BROADCAST:
                self.replica.apply(payload, message.seed, message.version)
            case Kind.DOWNLOAD:
                self.replica.download(payload, message.seed, message.version)
            case Kind.TRAIN:
                if message.version != self.replica.version:
                    raise RuntimeError(
                        f"told to train from version {message.version}, holds version {self.replica.version}"
                    )
                jobs = [(c, p) for c, p in payload.view(PAIRS).reshape(-1, 2).tolist()]
            case _:
                self.stopped = True
        end_s = perf_counter()
        self.inbox.release(received.slot)
        self.session.recorder.messages.append(received_row(received, message, self.comm.rank, begin_s, end_s))
        if jobs:
            self._train(jobs, message)

    def _train(self, jobs: list[Job], message: Message) -> None:
        frames: list[Frame] = []

        def buffer() -> np.ndarray:
            frame = self._free_frame()
            frame.t_encode_begin = perf_counter()
            frames.append(frame)
            return frame.payload

        begun = perf_counter()
        made = self.trainer.train(jobs, self.replica.x_hat, buffer)
        seconds = (perf_counter() - begun) / len(jobs)
        for frame, ((client, participation), _, size, key, loss) in zip(frames, made, strict=True):
            frame.t_encode_end = perf_counter()
            frame.seal(
                Kind.UPDATE,
                expected=self.described[Kind.UPDATE],
                payload_bytes=size,
                client=client,
                version=message.version,
                sequence=participation,
                seed=key,
                loss=loss,
                train_seconds=seconds,
            )
            self.sends.post(frame, 0)
            self.uploads += 1
        self._idle()

    def _free_frame(self) -> Frame:
        while (frame := self.pool.acquire()) is None:
            self._idle()
        return frame

    def _idle(self) -> bool:
        """Complete uploads; whether none is under way."""
        for sent in self.sends.poll():
            self.session.recorder.messages.append(sent_row(sent, self.comm.rank))
            if sent.message.kind == Kind.UPDATE:
                self.pool.release(sent.frame)
        return not len(self.sends)
