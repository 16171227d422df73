"""A client rank of the wall-clock driver: it plays its clients without pause and applies broadcasts meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Event, RLock, Thread
from time import perf_counter, sleep

import numpy as np
from torch import Tensor

from qafel_mpi.codecs.base import NonFiniteError
from qafel_mpi.drivers.build import RunSummary, Setup, use
from qafel_mpi.drivers.device_frames import frame_maker
from qafel_mpi.drivers.encodings import EncodingErrors
from qafel_mpi.drivers.failures import frame_of, reason
from qafel_mpi.drivers.rows import received_row, sent_row
from qafel_mpi.drivers.session import TAG_DOWN, TAG_UP, Session
from qafel_mpi.drivers.survival.digests import Digests, digest_period
from qafel_mpi.drivers.survival.holding import Held, NeverHeld
from qafel_mpi.drivers.survival.kept import Kept
from qafel_mpi.drivers.survival.stopping import Stopped
from qafel_mpi.drivers.survival.wall import take_up
from qafel_mpi.drivers.wall.members import adopt
from qafel_mpi.drivers.wall.population import turns_of
from qafel_mpi.drivers.wall.upload import Upload
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.kernels.memory import vector_like
from qafel_mpi.schedule.hosting import Cohort, Hosting
from qafel_mpi.transport import broadcast as broadcasts
from qafel_mpi.transport.frames import Frame, FramePool, Sends, new_frame
from qafel_mpi.transport.inbox import Received
from qafel_mpi.wire import ADOPT_BYTES, Kind, Message, check

POLL_SECONDS = 500e-6  # of the progress thread
PAUSE_SLICE_SECONDS = 5e-3  # a client that idles on purpose looks so often, and leaves its core alone


class WallClient:
    """A client rank: Algorithm 2 in a loop, Algorithm 3 between its SGD steps (or on a thread beside them).

    The numbers in the comments are the steps of docs/architecture.md.

    On a GPU an update is encoded beside the next training, which has a vector of its own, and posted between two
    of its steps; on a CPU it is posted at once.
    """

    failed = False  # a training: this rank waits for the end of the run
    poll_error: Exception | None = None  # raised through a training, and not its own

    def __init__(self, session: Session, setup: Setup, hosting: Hosting):
        self.session, self.setup, self.comm = session, setup, session.comm
        self.turns = turns_of(session.comm.rank, setup, hosting)
        self.client = setup.client()
        self.replica = self.client.replica
        self.described = setup.expected()
        transport = session.experiment.transport
        self.inbox = broadcasts.leaf(
            transport,
            self.comm,
            TAG_DOWN,
            payload_bytes=setup.downlink.payload_bytes(),
            catch_up_bytes=max(
                0 if setup.assigns else setup.full.payload_bytes(),
                ADOPT_BYTES if session.deaths.endured else 0,
            ),
            slots=broadcasts.DOWN_SLOTS,
        )
        down = (Kind.BROADCAST, Kind.DOWNLOAD, Kind.MODEL, Kind.ADOPT)
        self.expected = {kind: self.described[kind] for kind in down} | {Kind.STOP: self.inbox.stop}
        self.sends = Sends(self.comm, TAG_UP, peer=0)
        make = frame_maker(setup, self.replica.x_hat)
        self.pool = FramePool(setup.uplink.payload_bytes(), limit=transport.upload_frames, make=make)
        self.deltas: list[Tensor] = []  # that nothing is encoded from
        self.encoding: Upload | None = None
        self.digests = Digests(self.sends, self.described[Kind.DIGEST], digest_period(session, setup))
        self.errors = EncodingErrors.of(setup, session.recorder)
        self.uploads = 0  # of all its clients
        quotas = hosting.quotas(session.experiment.server.buffer_size)
        self.cohort = Cohort(quotas[session.comm.rank - 1])  # for synchronous rounds
        self.stopped = False
        # Payloads of clients that have moved here: with unicast from the next download on, as rank 0 counts on.
        self.moving: deque[np.ndarray] = deque()
        self.moved: deque[np.ndarray] = deque()
        self.downloads = 0
        self.threaded = transport.progress == "thread"
        self.lock = RLock()
        # What is trained on: beside a thread that moves x̂ meanwhile, a copy of one version of it.
        self.start = vector_like(self.replica.x_hat) if self.threaded else self.replica.x_hat
        self.failure: Exception | None = None  # of the thread
        self.held = Held(self) if setup.kept else NeverHeld()

    def run(self) -> RunSummary:
        progress = Thread(target=self._progress_loop, daemon=True) if self.threaded else None
        self._end = Event()
        if progress is not None:
            progress.start()
        try:
            while not self.stopped:
                if self.failed:
                    self._until(lambda: False, "the end of the run")
                else:
                    self._participate()
        finally:  # also what training raises: the thread would call MPI while the job ends
            self._end.set()
            if progress is not None:
                progress.join()
        self._say_goodbye()
        self.inbox.close()
        self.held.close()
        self.session.close(
            self.replica.version,
            self.replica.x_hat,
            sent=self.sends.total + self.inbox.passed_total,
            received=self.inbox.total,
            shared_state=not self.setup.unicast,
        )
        return self.session.finish(None, None)

    def take_up(self) -> None:
        """Of a run that is resumed: x̂ and turns of its checkpoint; a round that it has played its part of ends."""
        restore = self.restore if self.setup.kept else None
        if take_up(self.session, self.replica, self.turns, self.cohort, restore) and len(self.turns.clients):
            version = self.replica.version
            self._until(lambda: self.replica.version > version, "the next round")

    def kept(self) -> Kept:
        """What the clients keep for their next trainings, for a checkpoint."""
        return self.client.kept()

    def restore(self, kept: Kept) -> None:
        """The inverse of `kept`. Raises ValueError."""
        self.client.restore(kept)

    def _participate(self) -> None:
        """One training on the newest version, and its upload."""
        if not len(self.turns.clients):
            self._until(self._takes_over, "clients that move here")
        frame = self._free_frame()
        if frame is None:
            return
        while self.moved:
            adopt(self.turns, self.moved.popleft(), self.setup.task.examples)
        # 1. Draw the client to play from this rank's share of the population.
        client, participation = self.turns.next(avoid=self.cohort.clients)
        # 2. Take y_0 = x̂^t, the newest hidden state that this rank has.
        begun = perf_counter()
        with self.lock:
            version = self.client.begin(self.replica.x_hat)
            if self.threaded:
                self.start.copy_(self.replica.x_hat)
        # 3. Train: P local SGD steps give y_P − y_0. Broadcasts are applied meanwhile: steps 12 and 13.
        delta = self.deltas.pop() if self.deltas else vector_like(self.replica.x_hat)
        try:
            loss = self._train(client, participation, delta, version)
        except Stopped:
            return
        except Exception as error:
            if error is self.poll_error:
                raise
            self.pool.release(frame)
            self._report_failure(client, participation, version, reason(error, f"client {client}: "))
            return
        train_seconds = perf_counter() - begun
        # 4. Encode u = Q_c(y_P − y_0) into the payload of a frame.
        with self.lock:
            self._finish_encoding()  # begun a training ago: not done yet only where the device is behind
        frame.t_encode_begin = perf_counter()
        try:
            encoding, key = self.client.begin_encoding(
                delta, frame.payload, client=client, participation=participation
            )
        except NonFiniteError as error:
            self.pool.release(frame)
            self._report_failure(client, participation, version, f"client {client}: {error}")
            return
        upload = Upload(frame, delta, encoding, key, client, participation, version, loss, train_seconds)
        with self.lock:
            self.encoding = upload
            self.uploads += 1
            self._post_what_is_encoded()
        self._wait_for_next(client, version)

    def _train(self, client: int, participation: int, delta: Tensor, version: int) -> float:
        """y_P − y_0 into delta; returns the mean training loss. Raises Stopped."""
        experiment = self.session.experiment
        seed = derive(experiment.seed, Stream.SHUFFLE, client, participation)
        poll = self._stop if self.threaded else self._poll  # the thread looks for messages
        result = self.setup.task.train(client, self.start, delta, seed, poll, version=version)
        self._pause(experiment.client.pause_seconds)
        return result.loss

    def _post_what_is_encoded(self) -> None:
        if self.encoding is not None and self.encoding.encoding.ready():
            self._finish_encoding()

    def _finish_encoding(self) -> None:
        """Post the update under way; waits where its encoding is not done. Under the lock: the thread posts too."""
        if (upload := self.encoding) is None:
            return
        self.encoding = None
        frame = upload.frame
        try:
            size = upload.encoding.finish()
        except NonFiniteError as error:
            self.uploads -= 1  # it was counted when its encoding began
            self.pool.release(frame)
            why = f"client {upload.client}: {error}"
            self._report_failure(upload.client, upload.participation, upload.version, why)
            return
        frame.t_encode_end = perf_counter()
        if self.errors is not None:
            payload = frame.payload[:size]
            self.errors.add(upload.delta, payload, upload.key, upload.client, upload.participation)
        self.deltas.append(upload.delta)
        # 5. Write the header before the payload, and post the frame to rank 0: a nonblocking send.
        frame.seal(
            Kind.UPDATE,
            payload_bytes=size,
            expected=self.described[Kind.UPDATE],
            client=upload.client,
            version=upload.version,
            sequence=upload.participation,
            seed=upload.key,
            loss=upload.loss,
            train_seconds=upload.train_seconds,
        )
        self.sends.post(frame, 0)

    def _report_failure(self, client: int, participation: int, version: int, why: str) -> None:
        """Tell rank 0 in an update's place that a training failed: it ends the run, with this reason and a trace."""
        frame = frame_of(f"{why} (rank {self.comm.rank} on {self.session.placement.host})")
        with self.lock:
            expected = self.described[Kind.DIVERGED]
            frame.seal(
                Kind.DIVERGED,
                payload_bytes=frame.payload.size,
                expected=expected,
                client=client,
                version=version,
                sequence=participation,
            )
            self.failed = True
            self.uploads += 1
            self.sends.post(frame, 0)

    def _pause(self, seconds: float) -> None:
        """Idle as part of the training: broadcasts are applied meanwhile. Raises Stopped."""
        until_s = perf_counter() + seconds
        while (left_s := until_s - perf_counter()) > 0:
            sleep(min(PAUSE_SLICE_SECONDS, left_s))
            self._poll()

    def _wait_for_next(self, client: int, version: int) -> None:
        """Synchronous rounds wait for the next version when enough have played; unicast waits for a download."""
        if self.session.experiment.server.synchronous:
            if self.cohort.played(client, version):
                self._until(lambda: self.replica.version > version, "the next round")
                self.cohort.clients.clear()
        elif self.setup.unicast:
            wanted = self.uploads
            self._until(lambda: self.downloads >= wanted, "its download")

    def _free_frame(self) -> Frame | None:
        """A buffer for the next upload; waits while all are under way. None when the run has ended."""
        taken: list[Frame] = []

        def ready() -> bool:
            if frame := self.pool.acquire():
                taken.append(frame)
            return bool(taken)

        self._until(ready, "rank 0 to take an upload")
        if self.stopped and taken:
            self.pool.release(taken.pop())
        return taken[0] if taken else None

    def _until(self, ready: Callable[[], bool], what: str) -> None:
        """Between two trainings: where rank 0 asks this rank to hold, it does."""

        def step() -> bool:
            self._progress()
            return self.stopped or self.held.asked or ready()

        self.session.wait(step, lambda: self._waits(what))
        while self.held.asked:
            self.held.hold()
            self.session.wait(step, lambda: self._waits(what))

    def _waits(self, what: str) -> str:
        """In words: late clients below this one in the tree, whom it alone knows; else what all wait for."""
        return self.inbox.waits() if self.inbox.late else self.session.by_one(what)

    def _poll(self) -> None:
        try:
            self._progress()
        except Exception as error:
            self.poll_error = error
            raise
        self._stop()

    def _stop(self) -> None:
        self.session.shows_life()
        if self.stopped:
            raise Stopped

    def _progress_loop(self) -> None:
        """On the thread; what it raises is raised where the client waits next."""
        use(self.replica.x_hat.device)
        try:
            while not self._end.wait(POLL_SECONDS):
                self._progress()
        except Exception as error:
            self.failure = error

    def _progress(self) -> None:
        """Algorithm 3: apply the broadcasts that have arrived; post and complete uploads."""
        with self.lock:
            if self.failure is not None:
                raise self.failure
            self._post_what_is_encoded()
            # 12. Take the broadcasts that have arrived, in order; check each, and pass it on down the tree.
            self.held.look()
            while arrived := self.inbox.poll():
                for received in arrived:
                    self._apply(received)
            for sent in self.inbox.passed():
                self.session.recorder.messages.append(sent_row(sent, self.comm.rank))
            for sent in self.sends.poll():
                self.session.recorder.messages.append(sent_row(sent, self.comm.rank))
                if sent.message.kind == Kind.UPDATE:
                    self.pool.release(sent.frame)
                elif sent.message.kind == Kind.DIGEST:
                    self.digests.sent(sent)
            self.session.keep_books()

    def _apply(self, received: Received) -> None:
        begin_s = perf_counter()
        # A client can't drop a broadcast and stay in step: a bad one ends the job, with the reason.
        message = check(received.data, self.expected, rank=received.source)
        self.inbox.pass_on(received, message)
        # 13. Apply q^t: x̂^{t+1} = x̂^t + decode(q^t).
        payload = received.payload
        match message.kind:
            case Kind.BROADCAST:
                self.replica.apply(payload, message.seed, message.version)
                self.digests.after(self.replica, message.kind)
            case Kind.DOWNLOAD:
                self._downloaded(message, payload)
                self._take_over()
            case Kind.MODEL:
                self.replica.catch_up(payload, self.setup.full, message.version)
                self.digests.after(self.replica, message.kind)
            case Kind.ADOPT:
                self.cohort.change(message.sequence, message.version)
                self.moving.append(payload.copy())
                if not self.setup.unicast:
                    self._take_over()
            case _:
                self.stopped = True
        end_s = perf_counter()
        self.inbox.release(received.slot)
        self.session.recorder.messages.append(received_row(received, message, self.comm.rank, begin_s, end_s))

    def _takes_over(self) -> bool:
        """Of a spare rank: clients have moved here, and their first round begins."""
        rounds = self.session.experiment.server.synchronous
        return bool(self.moved) and (not rounds or self.cohort.begins(self.replica.version))

    def _take_over(self) -> None:
        """From the next training on: the thread that trains reads the turns."""
        while self.moving:
            self.moved.append(self.moving.popleft())

    def _downloaded(self, message: Message, payload: np.ndarray) -> None:
        self.replica.download(payload, message.seed, message.version)
        self.downloads += 1

    def _say_goodbye(self) -> None:
        """After the last upload has been taken, and what was to be passed on: how many uploads there were."""

        def idle() -> bool:
            self._progress()
            return self.encoding is None and not len(self.sends) and self.inbox.idle

        def waits() -> str:
            if self.encoding is not None:
                return "its last update to be encoded"
            return self._waits("rank 0 to take its last uploads" if len(self.sends) else self.inbox.waits())

        # 15. When rank 0 has taken the last upload, say goodbye: how many uploads there were.
        self.session.wait(idle, waits)
        self.sends.post(new_frame(0).seal(Kind.BYE, sequence=self.uploads), 0)
        self.session.wait(idle, lambda: self.session.by_one("rank 0 to take its goodbye"))
        self.sends.close()
