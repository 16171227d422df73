"""Rank 0 of the wall-clock driver: the buffered server."""

from __future__ import annotations

import sys
from functools import partial
from time import perf_counter

from mpi4py import MPI

from qafel_mpi.algorithms.server import Update
from qafel_mpi.codecs import NonFiniteError, PayloadError
from qafel_mpi.drivers.build import ERROR_BYTES, Interrupted, Report, RunSummary, Setup
from qafel_mpi.drivers.digests import digester
from qafel_mpi.drivers.ledger import Ledger
from qafel_mpi.drivers.rows import dropped_row, places, received_row, sent_row
from qafel_mpi.drivers.session import TAG_DOWN, TAG_UP, Session
from qafel_mpi.drivers.survival.clients import ClientsWatch
from qafel_mpi.drivers.survival.digests import DigestBook, digest_period
from qafel_mpi.drivers.survival.rejections import Origin
from qafel_mpi.drivers.survival.wall import WallCheckpoints
from qafel_mpi.drivers.wall.members import Members
from qafel_mpi.drivers.wall.models import catch_up, download_next
from qafel_mpi.drivers.wall.population import turns_of
from qafel_mpi.drivers.wall.questions import Questions
from qafel_mpi.drivers.wall.senders import Claims, Once, Round, Senders
from qafel_mpi.schedule.hosting import Hosting
from qafel_mpi.schedule.window import GraceWindow
from qafel_mpi.trace_schema import ENDED, LATE, REFUSED, USED
from qafel_mpi.transport import broadcast as broadcasts
from qafel_mpi.transport.inbox import Inbox, Received
from qafel_mpi.wire import DIGEST_BYTES, HEADER_BYTES, Kind, Message, WireError, check

Upload = tuple[Received, Message]
# Of runs whose ranks need not hold the same x̂: it was seen, or a step that failed has moved the server's in part.
NOT_SHARED = ("failed: server step", "failed: hidden state")


class WallServer:
    """Rank 0: receives uploads as they come, steps, and broadcasts.

    The numbers in the comments are the steps of docs/architecture.md.
    With the fan-out it never blocks on one client; with the others it waits before a step while broadcasts queue up.
    """

    def __init__(
        self,
        session: Session,
        setup: Setup,
        hosting: Hosting,
        interrupted: Interrupted,
        report: Report | None,
    ):
        self.session, self.setup, self.interrupted = session, setup, interrupted
        self.comm = session.comm
        self.server = setup.server()
        self.claims = Claims(self.server, setup.clients)
        self.ledger = Ledger(setup, self.server, session.recorder, report)
        self.digests_of = digester(session.experiment.trace.digests, setup.uplink)
        self.described = setup.expected()
        kinds = (Kind.UPDATE, Kind.DIVERGED, Kind.DIGEST, Kind.BYE)
        self.expected = {kind: self.described[kind] for kind in kinds}
        transport = session.experiment.transport
        ranks = range(1, self.comm.size)
        self.inbox = Inbox(
            self.comm,
            TAG_UP,
            payload_bytes=max(setup.uplink.payload_bytes(), ERROR_BYTES),
            slots=transport.receives(len(ranks)),
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
            catch_up=None if setup.assigns else partial(catch_up, self),
            model_bytes=full,
        )
        self.synchronous = session.experiment.server.synchronous
        quotas = hosting.quotas(session.experiment.server.buffer_size)
        self.senders = Senders(ranks, ranks[transport.hosts(self.comm.size) :])
        self.digests = DigestBook(session, self.server.x_hat, self.broadcast, digest_period(session, setup))
        self.watch = ClientsWatch(session, self.senders, self.broadcast)
        self.round = Round(dict(zip(ranks, quotas, strict=True)))
        # Unicast: whom each rank plays, so that a download is made for the client that will start from it.
        plays = setup.unicast and not setup.pull
        self.turns = {rank: turns_of(rank, setup, hosting) for rank in ranks} if plays else {}
        self.questions = Questions(self) if setup.pull else None
        for turns in self.turns.values():
            turns.next()  # the first ones start from x^0
        self.window = GraceWindow(session.experiment.server.grace_seconds)
        self.stopping = False  # every client has been told to stop
        self.busy_s = 0.0  # the trace's busy_seconds
        self.checkpoints = WallCheckpoints(self, hosting)
        self.members = Members(self, hosting)

    def run(self) -> RunSummary:
        self.interrupted()  # from here on a signal is a question: something is recorded
        self.checkpoints.begin(self._step)
        self.once = Once(self.checkpoints.played.participations.tolist())
        self.watch.begin()
        while not self.ledger.reason:
            if not self._turn():
                self.session.backoff.pause()
            self._look()
            self._look_at_window()
            if self.questions is not None and not (self.ledger.reason or self.checkpoints.holds):
                self.questions.ask()
            self.checkpoints.look()
        self.checkpoints.end()
        self._stop()
        return self._close()

    def _turn(self) -> bool:
        """Take what has arrived and complete what was sent. Returns whether anything happened."""
        turn_s = self.session.now_s()
        # 6. Take the uploads that have arrived.
        arrived = self.inbox.poll()
        if arrived:
            begin_s = perf_counter()
            uploads = self._checked(arrived, begin_s)
            while uploads:
                # What arrives after the last step is counted, not used: there is no end to its room.
                room = len(uploads) if self.ledger.reason else self.ledger.room()
                self._receive(uploads[:room], begin_s)
                uploads, begin_s = uploads[room:], perf_counter()
            self.close_round()
        done = self._progress_broadcasts()
        if arrived or done:
            self.session.backoff.moved()
            self.watch.heard_s = self.session.now_s()
            self.busy_s += self.watch.heard_s - turn_s
        return bool(arrived) or done

    def _progress_broadcasts(self) -> bool:
        done = self.broadcast.poll()
        for sent in done:
            self.session.recorder.messages.append(sent_row(sent, 0))
        return bool(done)

    def _look(self) -> None:
        """Whatever rank 0 waits for: the books, and whether time or the user ends the run."""
        self.ledger.tick(self.session.now_s())
        self.session.keep_books()
        self.members.look()
        self.watch.look()
        if self.interrupted() and self.checkpoints.may_end():
            self.ledger.reason = self.ledger.reason or "interrupted"

    def _look_at_window(self) -> None:
        """Step where the grace window of a buffer that has its quorum has passed."""
        self.window.look(self.server.quorate, now_s := self.session.now_s())
        if now_s >= self.window.due_s and not self.ledger.reason:
            self._step()

    def _checked(self, arrived: list[Received], begin_s: float) -> list[Upload]:
        """The updates among what has arrived. Goodbyes and failures are noted here."""
        uploads: list[Upload] = []
        for received in self.members.of_the_living(arrived):
            # 7. Check header and checksum: nothing of a bad message reaches the model.
            try:
                message = check(received.data, self.expected, rank=received.source)
                self.claims.check(message, received.source)
            except WireError as error:
                self._drop(received, error)
                continue
            if message.kind != Kind.UPDATE:
                if message.kind == Kind.BYE:
                    self.senders.said_goodbye(received.source, received.number, message.sequence)
                elif message.kind == Kind.DIGEST:
                    rank, digest = received.source, message.seed
                    differs = self.digests.compare(rank, message.version, digest, ending=self.stopping)
                    self.ledger.reason = differs or self.ledger.reason
                else:  # a client's training failed, and so has the run
                    reason = received.payload.tobytes().decode(errors="replace")
                    self.ledger.reason = self.ledger.reason or f"failed: {reason}"
                    self.session.fault("client failed", received.source, client=message.client, detail=reason)
                    self.senders.took(received.source)
                self.inbox.release(received.slot)
                row = received_row(received, message, 0, begin_s, perf_counter())
                self.session.recorder.messages.append(row)
            elif self.once.is_new(message.client, message.sequence):
                uploads.append((received, message))
            else:
                why = f"the update of client {message.client}, participation {message.sequence}, came before"
                self._put_aside(received, f"message from rank {received.source}: {why}", message.sequence)
                self.inbox.release(received.slot)
        return uploads

    def _receive(self, uploads: list[Upload], begin_s: float) -> None:
        """Uploads that the buffer has room for, checked since begin_s; and the step where they fill it."""
        ended = bool(self.ledger.reason)
        # 8. Decode the uploads into the buffer: buffer += s(τ) · u.
        weights = self._weigh(uploads)
        each_s = (perf_counter() - begin_s) / len(uploads)  # one call decoded them all: equal shares
        digests = self.digests_of([received.payload for received, _ in uploads])
        for received, _ in uploads:
            self.inbox.release(received.slot)
        self.inbox.nudge()  # the next uploads travel while rank 0 writes down these
        # 9. Write down messages and updates, and see whether that was the run's last upload.
        for i, (received, message) in enumerate(uploads):
            since_s = begin_s + i * each_s
            row = received_row(received, message, 0, since_s, since_s + each_s)
            self.session.recorder.messages.append(row)
        refused = self.ledger.found(self.server.findings, lambda i: self._origin(*uploads[i]), len(uploads))
        orders = places(weights, self.server.filled)
        each = enumerate(zip(uploads, weights, orders, digests, strict=True))
        for i, ((received, message), weight, order, digest) in each:
            use = ENDED if ended else USED if weight else REFUSED if i in refused else LATE
            self._count(received, message, weight, use=use, order=order, digest=digest)
        # Also where the run's last upload fills the buffer; not where the run has ended without a step.
        if self.server.full and not ended:
            self._step()
        for received, _ in uploads:
            self._was_heard(received.source)

    def _was_heard(self, rank: int) -> None:
        """After an update, as far as one can know: unicast, the client's next model; of a question the answer."""
        if self.questions is not None:
            self.questions.answered(rank)
        elif self.setup.unicast and not self.ledger.reason:
            download_next(self, rank)

    def _weigh(self, uploads: list[Upload]) -> list[float]:
        """Decode the uploads into the server's buffer. Returns their weights; 0 for those that were not used."""
        if self.ledger.reason:
            self.server.findings = []
            return [0.0] * len(uploads)
        examples = self.setup.task.examples
        made = (
            Update(m.client, m.version, r.payload, m.seed, examples(m.client), m.train_seconds)
            for r, m in uploads
        )
        return self.server.receive_all(list(made))

    def _origin(self, received: Received, message: Message) -> Origin:
        host = self.session.placement.hosts[received.source]
        return Origin(message.client, received.source, host, message.version)

    def _count(
        self, received: Received, message: Message, weight: float, *, use: int, order: int, digest: int
    ) -> None:
        self.senders.took(received.source)
        if weight or use == REFUSED:  # a round has no use for an update of an earlier one
            self.round.report(received.source, refused=use == REFUSED)
        self.checkpoints.took(message, weight)
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
            rank=received.source,
            use=use,
            order=order,
            digest=digest,
        )

    def close_round(self) -> None:
        """A synchronous round goes without refused uploads where everybody has reported: nobody else will."""
        if not (self.synchronous and self.round.refused and self.round.over) or self.ledger.reason:
            return
        if self.server.filled:
            self._step()
        else:
            self.ledger.reason = f"failed: rank 0 refused every update of round {self.server.version}"

    def _step(self) -> None:
        self.window.look(False, 0.0)  # closed: what comes at once behind the step opens one of its own
        self.round.begin()
        if not self.setup.unicast and not self._wait_for_room():
            return
        try:
            self._make_step()
        except (NonFiniteError, PayloadError) as error:
            self.ledger.reason = f"failed: server step {self.server.version + 1}: {error}"

    def _make_step(self) -> None:
        """Raises NonFiniteError, and PayloadError of a codec of the user's own."""
        if self.setup.unicast:
            self.ledger.stepped(self.server.step(None), self.session.now_s())
            return
        # 10. With K uploads in the buffer, step: x^{t+1}, q^t = Q_s(x^{t+1} − x̂^t), x̂^{t+1} = x̂^t + decode(q^t).
        frame = self.broadcast.frame()
        frame.t_encode_begin = perf_counter()
        version = self.server.version
        step = self.server.step(frame.payload)
        frame.t_encode_end = perf_counter()
        # 11. Publish q^t: one frame serves every client; what a slow client has no room for waits in a log.
        frame.seal(
            Kind.BROADCAST,
            payload_bytes=step.payload_bytes,
            expected=self.described[Kind.BROADCAST],
            version=version,
            sequence=version,
            seed=step.key,
        )
        self.broadcast.publish(frame)
        self.digests.moved(self.server.version)
        self.ledger.sent_down(step.payload_bytes)
        self.ledger.stepped(step, self.session.now_s())

    def _wait_for_room(self) -> bool:
        """Backpressure where no version is skipped. Uploads wait at the clients meanwhile, who keep polling.

        Returns whether there is room: there may be none where time or the user has ended the run meanwhile.
        """
        if self.broadcast.ready:
            return True
        reason = self.ledger.reason  # there is one where the run's last upload has filled the buffer

        def ready() -> bool:
            if self._progress_broadcasts():
                self.session.backoff.moved()
            self._look()
            return self.broadcast.ready or self.ledger.reason != reason

        self.session.wait(ready, self.broadcast.waits)
        return self.broadcast.ready

    def _drop(self, received: Received, error: WireError) -> None:
        """Nothing of a bad message reaches the model; it is counted, and said once a message.

        It was an update, as far as one can know: its client waits for what would have followed that. But of a rank
        that has been told to stop, a header without a payload is a goodbye, whatever its bytes say.
        """
        self._put_aside(received, str(error), error.sequence)
        size = received.wire_bytes - HEADER_BYTES
        if size == 0 and self.stopping:
            self.senders.said_goodbye(received.source, received.number, None)
        elif size != DIGEST_BYTES or self.described[Kind.UPDATE].payload_bytes == DIGEST_BYTES:
            self.senders.took(received.source)
            self.round.report(received.source, refused=True)
        self.inbox.release(received.slot)
        self._was_heard(received.source)

    def _put_aside(self, received: Received, why: str, sequence: int) -> None:
        self.session.dropped += 1
        self.session.fault("message dropped", received.source, detail=why)
        self.session.recorder.messages.append(dropped_row(received, sequence, 0))
        arrived_s, payload = received.t_complete - self.session.origin_s, received.payload
        self.ledger.dropped(received.source, payload.size, arrived_s, *self.digests_of([payload]))
        print(f"qafel-mpi: rank 0 dropped a message: {why}", file=sys.stderr, flush=True)

    def _stop(self) -> None:
        """Tell every client to stop and take all that they still have sent.

        An interrupt finds nothing here to end sooner: a second one does not wait for the clients.
        The broadcasts are only posted: MPI keeps the order. To wait until they are taken would let the clients
        upload meanwhile, on a slow link for longer than the whole run.
        """
        self.stopping = True
        # 14. Tell every client to stop, behind its last broadcast.
        self.broadcast.end(self.server.version)
        self.watch.ending()

        def accounted() -> bool:
            self._turn()
            self.senders.settle(self.inbox.all_before)
            self._look()
            return not self.senders.owing and self.broadcast.idle

        self.session.wait(accounted, lambda: self.senders.waits() or self.broadcast.waits())
        for rank, updates in self.senders.lost().items():
            print(
                f"qafel-mpi: rank {rank} has sent {updates} updates that never came",
                file=sys.stderr,
                flush=True,
            )

    def _close(self) -> RunSummary:
        self.ledger.close(self.session.now_s())
        self.inbox.close()
        self.broadcast.close()
        # 16. Check that every rank holds the same x̂, and merge the ranks' shards into one trace.
        self.session.close(
            self.server.version,
            self.server.x_hat,
            sent=self.broadcast.total,
            received=self.inbox.total,
            shared_state=not self.setup.unicast,
            compare=not self.ledger.reason.startswith(NOT_SHARED),
        )
        return self.session.finish(
            self.ledger,
            self.server.x,
            seconds=self.ledger.seconds,
            virtual_seconds=0.0,
            **self.checkpoints.totals(),
        )
