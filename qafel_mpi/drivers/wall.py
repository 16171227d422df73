"""The wall-clock driver: rank 0 is the buffered server, every other rank a client that trains without pause.

Rank r is client r − 1. It trains on the newest hidden state that it has; broadcasts are received and applied
while it trains (Algorithm 3). Staleness is what the machine makes it. This is the communication benchmark.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event, RLock, Thread
from time import perf_counter, sleep

import torch
from mpi4py import MPI

from qafel_mpi.algorithms.server import Update
from qafel_mpi.codecs import PayloadError
from qafel_mpi.config import ConfigError, Experiment
from qafel_mpi.drivers.build import (
    Interrupted,
    Report,
    RunSummary,
    Setup,
    build,
    compute_device,
    visible_gpus,
)
from qafel_mpi.drivers.encodings import EncodingErrors
from qafel_mpi.drivers.ledger import Ledger
from qafel_mpi.drivers.rows import dropped_row, received_row, sent_row
from qafel_mpi.drivers.session import TAG_DOWN, TAG_UP, Session, begin
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.transport import broadcast as broadcasts
from qafel_mpi.transport.fanout import FanOut
from qafel_mpi.transport.frames import Frame, FramePool, Inbox, Received, Sends, new_frame
from qafel_mpi.transport.placement import place
from qafel_mpi.wire import Kind, Message, WireError, check

DOWN_SLOTS = 4  # receives that a client keeps posted
POLL_SECONDS = 500e-6  # of the progress thread
PAUSE_SLICE_SECONDS = (
    5e-3  # a client that idles on purpose looks for broadcasts so often, and leaves its core alone
)


class Stopped(Exception):
    """Rank 0 has ended the run: a training under way is abandoned."""


def run(
    experiment: Experiment,
    comm: MPI.Intracomm,
    out: Path,
    *,
    data_dir: Path | None = None,
    command_line: list[str] | None = None,
    interrupted: Interrupted = lambda: False,
    report: Report | None = None,
) -> RunSummary:
    """Collective: run the experiment on the ranks of comm and write the trace file `out`.

    The same summary on every rank. Raises ConfigError and DataError where the experiment can't run.
    """
    refuse_impossible(experiment, comm.size)
    spot = place(comm, gpus=visible_gpus(), share_gpus=experiment.transport.share_gpus)
    device = compute_device(spot.gpu)
    setup = build(experiment, clients=comm.size - 1, device=device, threads=spot.threads, data_dir=data_dir)
    session = begin(experiment, comm, spot, out, command_line or sys.argv)
    session.open(setup)
    if comm.rank == 0:
        return WallServer(session, setup, interrupted, report).run()
    return WallClient(session, setup).run()


def refuse_impossible(experiment: Experiment, ranks: int) -> None:
    """Raise ConfigError for what can only hang or make no sense, with the reason."""
    clients = ranks - 1
    if clients < 1:
        raise ConfigError(
            [
                "clock.kind = 'wall' needs a server and at least one client rank: start it as "
                "`mpirun -n 4 qafel-mpi run ...`, or use --set clock.kind=virtual in one process"
            ]
        )
    server = experiment.server
    if server.synchronous and server.buffer_size > clients:
        raise ConfigError(
            [
                f"server.buffer_size = {server.buffer_size}: a synchronous round waits for that many clients, and "
                f"{ranks} ranks have {clients}: it would wait for ever; set server.buffer_size={clients} at most"
            ]
        )


class WallServer:
    """Rank 0: receives uploads as they come, steps, and broadcasts.

    With the fan-out it never blocks on one client; with the others it waits before a step while broadcasts queue up.
    """

    def __init__(self, session: Session, setup: Setup, interrupted: Interrupted, report: Report | None):
        self.session, self.setup, self.interrupted = session, setup, interrupted
        self.comm = session.comm
        self.server = setup.server()
        self.ledger = Ledger(setup, self.server, session.recorder, report)
        self.described = setup.expected()
        self.expected = {kind: self.described[kind] for kind in (Kind.UPDATE, Kind.BYE)}
        transport = session.experiment.transport
        clients = range(1, self.comm.size)
        self.inbox = Inbox(
            self.comm,
            TAG_UP,
            payload_bytes=setup.uplink.payload_bytes(),
            slots=min(transport.receive_slots, 2 * len(clients)),
            source=MPI.ANY_SOURCE,
        )
        payload, full = setup.downlink.payload_bytes(), setup.full.payload_bytes()
        self.broadcast = broadcasts.root(
            transport,
            self.comm,
            TAG_DOWN,
            payload_bytes=payload,
            # As long as the missed payloads are cheaper than the full state; else one frame makes up for all.
            log_length=1 if setup.assigns else max(1, full // payload),
            catch_up=None if setup.assigns else self._catch_up,
        )
        self.taken = dict.fromkeys(clients, 0)  # updates received, by rank
        self.announced: dict[int, int] = {}  # updates that a rank says it has sent, from its BYE
        self.sequence = 0
        self.heard_s = 0.0

    def run(self) -> RunSummary:
        self.ledger.open()
        self.heard_s = self.session.now_s()
        while not self.ledger.reason:
            self._progress()
            self._end_of_loop()
        self._stop()
        self.ledger.close(self.session.now_s())
        seconds = self.ledger.seconds
        self.inbox.close()
        self.broadcast.close()
        server = self.server
        self.session.close(
            server.version,
            server.x_hat,
            sent=self.broadcast.total,
            received=self.inbox.total,
            shared_state=not self.setup.unicast,
        )
        return self.session.finish(
            self.ledger,
            server.x,
            seconds=seconds,
            virtual_seconds=0.0,
            down_links=self.broadcast.link_bytes,
        )

    def _progress(self) -> bool:
        """Take what has arrived and complete what was sent. Returns whether anything happened."""
        arrived = self.inbox.poll()
        for received in arrived:
            self._take(received)
        done = self._progress_broadcasts()
        if arrived or done:
            self.session.backoff.reset()
            self.heard_s = self.session.now_s()
            return True
        self.session.backoff.pause()
        return False

    def _progress_broadcasts(self) -> bool:
        done = self.broadcast.poll()
        for sent in done:
            self.session.recorder.messages.append(sent_row(sent, 0))
        return bool(done)

    def _end_of_loop(self) -> None:
        now = self.session.now_s()
        self.ledger.tick(now)
        self.session.keep_time()
        self.session.recorder.flush_if_due()
        if self.interrupted():
            self.ledger.reason = self.ledger.reason or "interrupted"
        if now - self.heard_s > self.session.patience_s:
            self.heard_s = now
            least = min(self.taken, key=lambda rank: self.taken[rank])
            print(
                f"qafel-mpi: rank 0 has waited {self.session.patience_s:.0f} s for any upload; rank {least} has "
                f"sent the fewest, {self.taken[least]}",
                file=sys.stderr,
                flush=True,
            )

    def _take(self, received: Received) -> None:
        """An upload's way: frame -> wire.check -> server.receive -> step or nothing -> broadcast -> rows."""
        begin_s = perf_counter()
        try:
            message = check(received.data, self.expected, rank=received.source)
            if message.kind == Kind.UPDATE:
                weight = self._receive(received, message)
        except (WireError, PayloadError) as error:
            self._drop(received, error)
            return
        end_s = perf_counter()
        self.inbox.release(received.slot)
        self.session.recorder.messages.append(received_row(received, message, 0, begin_s, end_s))
        if message.kind == Kind.BYE:
            self.announced[received.source] = message.sequence
            return
        self.taken[received.source] += 1
        finish_s = received.t_complete - self.session.origin_s
        self.ledger.received(
            client=message.client,
            participation=message.sequence,
            start_version=message.version,
            weight=weight,
            loss=message.loss,
            examples=self.setup.task.examples(message.client),
            payload_bytes=message.payload_bytes,
            train_seconds=message.train_seconds,
            start_s=finish_s - message.train_seconds,
            finish_s=finish_s,
        )
        if self.server.full:  # also where this upload is the last one: what it completes is used
            self._step()
        if self.setup.unicast and not self.ledger.reason:
            self._download(received.source, message)

    def _receive(self, received: Received, message: Message) -> float:
        if self.ledger.reason:  # it arrived after the last step: counted, not used
            return 0.0
        examples = self.setup.task.examples(message.client)
        update = Update(message.client, message.version, received.payload, message.seed, examples)
        return self.server.receive(update)

    def _step(self) -> None:
        if self.setup.unicast:
            self.ledger.stepped(self.server.step(None), self.session.now_s())
            return
        self._wait_for_room()
        frame = self.broadcast.frame()
        frame.t_encode_begin = perf_counter()
        version = self.server.version
        step = self.server.step(frame.payload)
        frame.t_encode_end = perf_counter()
        frame.seal(
            Kind.BROADCAST,
            payload_bytes=step.payload_bytes,
            expected=self.described[Kind.BROADCAST],
            version=version,
            sequence=version,
            seed=step.key,
        )
        self.broadcast.publish(frame)
        self.ledger.sent_down(step.payload_bytes)
        self.ledger.stepped(step, self.session.now_s())

    def _wait_for_room(self) -> None:
        """Backpressure where no version is skipped. Uploads wait at the clients meanwhile, who keep polling."""

        def ready() -> bool:
            self._progress_broadcasts()
            return self.broadcast.ready

        if not self.broadcast.ready:
            self.session.wait(ready, self.broadcast.waits)

    def _download(self, rank: int, message: Message) -> None:
        """Unicast: the newest model for a client that starts again, quantized afresh."""
        assert isinstance(self.broadcast, FanOut), "the configuration refuses the others"
        frame = self.broadcast.frame()
        frame.t_encode_begin = perf_counter()
        size, key = self.server.download(
            frame.payload, client=message.client, participation=message.sequence + 1
        )
        frame.t_encode_end = perf_counter()
        frame.seal(
            Kind.DOWNLOAD,
            payload_bytes=size,
            expected=self.described[Kind.DOWNLOAD],
            client=message.client,
            version=self.server.version,
            sequence=message.sequence + 1,
            seed=key,
        )
        self.broadcast.sends.post(frame, rank)
        self.ledger.sent_down(size)

    def _catch_up(self) -> Frame:
        """One frame with the newest hidden state, for clients that fell too far behind."""
        frame = new_frame(self.setup.full.payload_bytes())
        frame.t_encode_begin = perf_counter()
        size = self.setup.full.encode(self.server.x_hat, frame.payload, 0)
        frame.t_encode_end = perf_counter()
        return frame.seal(
            Kind.MODEL,
            payload_bytes=size,
            expected=self.described[Kind.MODEL],
            version=self.server.version,
            sequence=self.server.version,
        )

    def _drop(self, received: Received, error: Exception) -> None:
        """Nothing of a bad message reaches the model; it is counted, and said once a message."""
        self.session.dropped += 1
        self.session.recorder.messages.append(dropped_row(received, getattr(error, "sequence", 0), 0))
        print(f"qafel-mpi: rank 0 dropped a message: {error}", file=sys.stderr, flush=True)
        self.taken[received.source] += 1
        self.inbox.release(received.slot)

    def _stop(self) -> None:
        """Tell every client to stop, behind its last broadcast, and take all that they still have sent.

        The broadcasts need only be posted: MPI keeps the order. To wait until they are taken would let the clients
        upload meanwhile, on a slow link for longer than the whole run.
        """

        def waits() -> str:
            silent = sorted(set(self.taken) - set(self.announced))[:8]
            if silent:
                return f"the last messages of ranks {silent}"
            return "uploads that were announced" if self.broadcast.idle else self.broadcast.waits()

        def posted() -> bool:
            self._progress()
            return self.broadcast.posted

        self.session.wait(posted, lambda: "earlier broadcasts to be taken")
        self.broadcast.end(self.server.version)

        def accounted() -> bool:
            self._progress()
            said = len(self.announced) == len(self.taken)
            # More than announced: something that no client sent as an update was dropped.
            taken = all(self.taken[rank] >= n for rank, n in self.announced.items())
            return said and taken and self.broadcast.idle

        self.session.wait(accounted, waits)


class WallClient:
    """A client rank: Algorithm 2 in a loop, Algorithm 3 between its SGD steps (or on a thread beside them)."""

    def __init__(self, session: Session, setup: Setup):
        self.session, self.setup, self.comm = session, setup, session.comm
        self.id = session.comm.rank - 1
        self.client = setup.client()
        self.replica = self.client.replica
        self.described = setup.expected()
        transport = session.experiment.transport
        self.inbox = broadcasts.leaf(
            transport,
            self.comm,
            TAG_DOWN,
            payload_bytes=setup.downlink.payload_bytes(),
            catch_up_bytes=0 if setup.assigns else setup.full.payload_bytes(),
            slots=DOWN_SLOTS,
        )
        down = (Kind.BROADCAST, Kind.DOWNLOAD, Kind.MODEL)
        self.expected = {kind: self.described[kind] for kind in down} | {Kind.STOP: self.inbox.stop}
        self.sends = Sends(self.comm, TAG_UP, peer=0)
        self.pool = FramePool(setup.uplink.payload_bytes(), limit=transport.upload_frames)
        self.delta = torch.empty_like(setup.x0)
        self.errors = EncodingErrors.of(setup, session.recorder)
        self.uploads = 0
        self.stopped = False
        self.downloads = 0
        self.threaded = transport.progress == "thread"
        self.lock = RLock()

    def run(self) -> RunSummary:
        progress = Thread(target=self._progress_loop, daemon=True) if self.threaded else None
        self._end = Event()
        if progress is not None:
            progress.start()
        while not self.stopped:
            self._participate()
        self._end.set()
        if progress is not None:
            progress.join()
        self._say_goodbye()
        self.inbox.close()
        self.session.close(
            self.replica.version,
            self.replica.x_hat,
            sent=self.sends.total + self.inbox.passed_total,
            received=self.inbox.total,
            shared_state=not self.setup.unicast,
        )
        return self.session.finish(None, None)

    def _participate(self) -> None:
        """One training on the newest version, and its upload."""
        frame = self._free_frame()
        if frame is None:
            return
        seed = derive(self.session.experiment.seed, Stream.SHUFFLE, self.id, self.uploads)
        begun = perf_counter()
        with self.lock:
            version = self.client.begin()
        try:
            result = self.setup.task.train(
                self.id, self.replica.x_hat, self.delta, seed, None if self.threaded else self._poll
            )
            self._pause(self.session.experiment.client.pause_seconds)
        except Stopped:
            return
        frame.t_encode_begin = perf_counter()
        size, key = self.client.encode(self.delta, frame.payload, client=self.id, participation=self.uploads)
        frame.t_encode_end = perf_counter()
        if self.errors is not None:
            with self.lock:  # the thread flushes tables
                self.errors.add(self.delta, frame.payload[:size], key, self.id, self.uploads)
        frame.seal(
            Kind.UPDATE,
            payload_bytes=size,
            expected=self.described[Kind.UPDATE],
            client=self.id,
            version=version,
            sequence=self.uploads,
            seed=key,
            loss=result.loss,
            train_seconds=frame.t_encode_begin - begun,
        )
        with self.lock:
            self.sends.post(frame, 0)
        self.uploads += 1
        self._wait_for_next(version)

    def _pause(self, seconds: float) -> None:
        """Idle as part of the training: broadcasts are applied meanwhile. Raises Stopped."""
        until_s = perf_counter() + seconds
        while (left_s := until_s - perf_counter()) > 0:
            sleep(min(PAUSE_SLICE_SECONDS, left_s))
            self._poll()

    def _wait_for_next(self, version: int) -> None:
        """Synchronous rounds wait for the next version; unicast waits for its own download."""
        if self.session.experiment.server.synchronous:
            self._until(lambda: self.replica.version > version, "the next round")
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
        def step() -> bool:
            self._progress()
            return self.stopped or ready()

        self.session.wait(step, lambda: what)

    def _poll(self) -> None:
        self._progress()
        if self.stopped:
            raise Stopped

    def _progress_loop(self) -> None:
        while not self._end.wait(POLL_SECONDS):
            self._progress()

    def _progress(self) -> None:
        """Algorithm 3: apply the broadcasts that have arrived; complete uploads."""
        with self.lock:
            while arrived := self.inbox.poll():
                for received in arrived:
                    self._apply(received)
            for sent in self.inbox.passed():
                self.session.recorder.messages.append(sent_row(sent, self.comm.rank))
            for sent in self.sends.poll():
                self.session.recorder.messages.append(sent_row(sent, self.comm.rank))
                self.pool.release(sent.frame)
            self.session.keep_time()
            self.session.recorder.flush_if_due()

    def _apply(self, received: Received) -> None:
        begin_s = perf_counter()
        # A client can't drop a broadcast and stay in step: a bad one ends the job, with the reason.
        message = check(received.data, self.expected, rank=received.source)
        self.inbox.pass_on(received, message)
        payload = received.payload
        match message.kind:
            case Kind.BROADCAST:
                self.setup.downlink.validate(payload)
                self.replica.apply(payload, message.seed, message.version)
            case Kind.DOWNLOAD:
                self.setup.downlink.validate(payload)
                self.replica.download(payload, message.seed, message.version)
                self.downloads += 1
            case Kind.MODEL:
                self.replica.catch_up(payload, self.setup.full, message.version)
            case _:
                self.stopped = True
        end_s = perf_counter()
        self.inbox.release(received.slot)
        self.session.recorder.messages.append(received_row(received, message, self.comm.rank, begin_s, end_s))

    def _say_goodbye(self) -> None:
        """After the last upload has been taken, and what was to be passed on: how many uploads there were."""

        def idle() -> bool:
            self._progress()
            return not len(self.sends) and self.inbox.idle

        def waits() -> str:
            return "rank 0 to take its last uploads" if len(self.sends) else self.inbox.waits()

        self.session.wait(idle, waits)
        self.sends.post(new_frame(0).seal(Kind.BYE, client=self.id, sequence=self.uploads), 0)
        self.session.wait(lambda: self._sent_all(), lambda: "rank 0 to take its goodbye")
        self.sends.close()

    def _sent_all(self) -> bool:
        for sent in self.sends.poll():
            self.session.recorder.messages.append(sent_row(sent, self.comm.rank))
        return not len(self.sends)
