"""The virtual-clock driver: an event-driven simulation of many clients; the other ranks are workers.

Rank 0 keeps the schedule and the server and takes results in virtual order, never in order of arrival. The
result is a function of the experiment and its seed: bit-identical for any number of ranks, given one torch
thread a rank (or reductions that don't depend on threads) and processors of one type. /final's digests show it.

A training is handed out when its client starts and awaited when it finishes in virtual time. Clients that start
from one version are handed out together: which ones is decided by the schedule alone.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from time import perf_counter

import numpy as np
from mpi4py import MPI

from qafel_mpi.algorithms.server import Update
from qafel_mpi.codecs import NonFiniteError, PayloadError
from qafel_mpi.config import Experiment
from qafel_mpi.drivers.build import (
    Interrupted,
    Report,
    RunSummary,
    Setup,
    build,
    compute_device,
    visible_gpus,
)
from qafel_mpi.drivers.digests import digester
from qafel_mpi.drivers.ledger import Ledger
from qafel_mpi.drivers.memory import refuse_what_does_not_fit
from qafel_mpi.drivers.rows import places
from qafel_mpi.drivers.session import Session, begin, giving_the_name_up
from qafel_mpi.drivers.survival.checkpoints import INTERRUPTED
from qafel_mpi.drivers.survival.deaths import dying_alone, naming_the_dead
from qafel_mpi.drivers.survival.every import DEFAULT, Every
from qafel_mpi.drivers.survival.rejections import Origin
from qafel_mpi.drivers.survival.resume import MISFITS, misfit, share, whole_state
from qafel_mpi.drivers.survival.stopping import Stopped, StopsWhen
from qafel_mpi.drivers.virtual.planned import planned
from qafel_mpi.drivers.virtual.pull import trainer_of
from qafel_mpi.drivers.virtual.settling import SettlingWorkers
from qafel_mpi.drivers.virtual.state import restore, state_of
from qafel_mpi.drivers.virtual.worker import work
from qafel_mpi.drivers.virtual.workers import Job, LocalWorkers, Result, Workers
from qafel_mpi.kernels.state import State
from qafel_mpi.schedule.events import START, Event, Schedule
from qafel_mpi.schedule.window import GraceWindow
from qafel_mpi.trace_schema import LATE, NO_RANK, REFUSED, USED
from qafel_mpi.transport.coverage import coverage
from qafel_mpi.transport.placement import place
from qafel_mpi.transport.window import HostArrays

# Uploads that may wait for the server to take them in one call; it does not move meanwhile.
ARRIVED, ARRIVED_BYTES = 64, 1 << 16
LOOK_SECONDS = 0.2  # between looks at the trace's flush and the limit of wall time
Arrived = tuple[Event, int, Result]  # with the version that it started from


def run(
    experiment: Experiment,
    comm: MPI.Intracomm | None,
    out: Path,
    *,
    data_dir: Path | None = None,
    command_line: list[str] | None = None,
    interrupted: Interrupted = lambda: False,
    report: Report | None = None,
    every: Every = DEFAULT,
    resume: Path | None = None,
) -> RunSummary:
    """Collective: run the experiment and write the trace file `out`; the same summary on every rank.

    comm: None for one process without a launcher. every: how often rank 0 writes a checkpoint. resume: the one to go
    on from. Raises ConfigError and DataError where it can't run.
    """
    comm = comm or MPI.COMM_SELF
    plan = planned(experiment) if comm.rank == 0 else None
    gpus = visible_gpus()
    spot = place(comm, gpus=gpus, share_gpus=experiment.transport.share_gpus)
    session = begin(experiment, comm, spot, out, command_line or sys.argv, every=every, resume=resume)
    # One thread: a reduction's result may depend on the number of threads, and so on the number of ranks.
    share_data = experiment.transport.shared_data
    with naming_the_dead(session), HostArrays(comm, session.wait, share=share_data) as memory:
        with giving_the_name_up(out):
            setup = build(
                experiment,
                clients=experiment.task.population(),
                device=compute_device(spot.gpu),
                threads=1,
                data_dir=data_dir,
                checksum=coverage(comm, experiment.transport.checksum, local_ranks=spot.local_ranks),
                memory=memory,
            )
            refuse_what_does_not_fit(setup, comm, spot, checkpoints=not every.never)
        session.open(setup)
        if plan is None:
            with dying_alone(session):
                summary = work(session, setup)
            memory.leave_open = summary.lost_ranks > 0
            return summary
        server = setup.server()
        workers: Workers
        if comm.size == 1:
            client = setup.client_of(server.replica)
            workers = LocalWorkers(setup, trainer_of(setup, client, session), StopsWhen(interrupted))
        else:
            workers = SettlingWorkers(session, setup, gpus=bool(gpus), poll=StopsWhen(interrupted))
        ledger = Ledger(setup, server, session.recorder, report, workers.evaluate)
        summary = Simulation(session, setup, plan, workers, ledger, interrupted).run()
        memory.leave_open = summary.lost_ranks > 0
        return summary


class Simulation:
    """Rank 0's loop over events. The numbers in the comments are the steps of docs/architecture.md."""

    def __init__(
        self,
        session: Session,
        setup: Setup,
        plan: Schedule,
        workers: Workers,
        ledger: Ledger,
        interrupted: Interrupted,
    ):
        assert session.recovery.checkpoints is not None, "rank 0 has them once the session is open"
        self.checkpoints = session.recovery.checkpoints
        self.session, self.setup, self.schedule, self.workers = session, setup, plan, workers
        self.ledger, self.server, self.interrupted = ledger, ledger.server, interrupted
        self.unicast, self.examples = setup.unicast, setup.task.examples
        self.digests_of = digester(session.experiment.trace.digests, setup.uplink)
        self.together = 1 if setup.alone else setup.task.together
        self.payload = np.empty(setup.downlink.payload_bytes(), dtype=np.uint8)
        self.start_version: dict[Job, int] = {}  # of all that train
        # In order: those that start from the newest version, not handed out yet.
        self.pending: dict[Job, None] = {}
        clock = session.experiment.clock
        # "always": the client of a finish restarts before or after the step that its update completes.
        self.step_waits = clock.start == "always" and clock.restart_before_step
        self.step_due = False
        self.synchronous = session.experiment.server.synchronous
        self.window = GraceWindow(session.experiment.server.grace_seconds)
        self.arrived: list[Arrived] = []  # the server's next uploads
        self.most_at_once = max(1, min(ARRIVED, ARRIVED_BYTES // setup.uplink.payload_bytes()))
        self.at_once = 1  # so many are received in one call; none but the last of them may fill the buffer
        self.epoch = setup.clients if clock.flush_epoch else 0
        self.finishes = 0
        self.down_links = 0
        self.now_s = 0.0

    def run(self) -> RunSummary:
        self.interrupted()  # from here on a signal is a question: something is recorded
        if self.session.recovery.resumed is not None:
            self._restore(self.session.recovery.resumed["run"])
        else:
            self.ledger.open()
        self._expect()
        try:
            self._simulate()
            if self.step_due and self.ledger.reason == "finished":
                self._step()  # the run's last upload has filled the buffer, and nobody restarts before it
        except Stopped:  # in the middle of an event: the last checkpoint holds
            self.ledger.reason, self.checkpoints.stopped = INTERRUPTED, True
        except (NonFiniteError, PayloadError) as error:  # of the server's step
            self.ledger.reason = f"failed: server step {self.server.version + 1}: {error}"
        self._receive()
        if self.ledger.reason == INTERRUPTED and not self.checkpoints.stopped:
            with suppress(Stopped):  # long trainings are under way: the last one holds
                self._checkpoint()
        return self._close()

    def _restore(self, state: State) -> None:
        """Go on from a checkpoint. Raises CheckpointError."""
        try:
            restore(self, state)
        except MISFITS as error:
            raise misfit(error) from error
        self.checkpoints.begin_at(self.server.version)
        share(self.session, None, self.server.x_hat.numpy())
        try:
            self.workers.give_back(state["clients"])
        except MISFITS as error:
            raise misfit(error) from error

    def _checkpoint(self) -> None:
        """Between two events: all that the run has become, with the results of all that was handed out."""

        def take() -> State:
            self._receive()  # of fewer at once the server takes the same bits
            results, positions = self.workers.settle()
            return whole_state(self.session, state_of(self, results), positions)

        self.checkpoints.keep(self.server.version, take)

    def _simulate(self) -> None:
        ledger, replica, window = self.ledger, self.server.replica, self.window
        next_event, interrupted = self.schedule.next, self.interrupted
        limit_s = self.session.experiment.stop.virtual_seconds or float("inf")
        look_s = perf_counter()
        version = replica.version
        while not ledger.reason:
            if version != replica.version and self.checkpoints.due(version := replica.version):
                self._checkpoint()
            # 1. Take the next event of the schedule: a client starts, or finishes.
            event = next_event(replica.version)
            if window.due_s < min(event.t_s, limit_s):
                self._close_window()
                if ledger.reason:
                    return
            if event.t_s >= limit_s:
                self.now_s, ledger.reason = limit_s, "finished"
                return
            self.now_s = event.t_s
            if event.kind == START:
                self._start(event)
                if self.step_due:
                    self._step()
                continue
            self._finish(event)
            if interrupted():
                ledger.reason = ledger.reason or "interrupted"
            if perf_counter() >= look_s:
                self._look()
                look_s = perf_counter() + LOOK_SECONDS

    def _look(self) -> None:
        self.session.keep_books()
        limit_s = self.session.experiment.stop.seconds
        if limit_s is not None and self.session.now_s() >= limit_s:
            self.ledger.reason = self.ledger.reason or "finished"

    def _start(self, event: Event) -> None:
        """A client takes the newest version; its training is handed out with its batch."""
        if not event.reports:
            return  # nobody will ever see what it computes
        # 2. A start: the client takes y_0 = x̂^t and joins the batch of all that start from version t.
        job = (event.client, event.participation)
        self.start_version[job] = self.server.version
        if self.unicast:
            self._download(job)
        self.pending[job] = None
        if len(self.pending) >= self.together:
            self._hand_out()

    def _download(self, job: Job) -> None:
        size, key = self.server.download(self.payload, client=job[0], participation=job[1])
        self.workers.download(self.payload[:size], self.server.version, key)
        self.ledger.sent_down(size)
        self.down_links += size

    def _hand_out(self) -> None:
        """The batch as it stands: when it is full, when the version moves on, when a member's result is due."""
        # 3. Hand the batch out to a worker rank, or train it here: P local SGD steps each, then Q_c(y_P − y_0).
        if self.pending:
            self.workers.train(self.pending, self.server.version)
            self.pending = {}

    def _finish(self, event: Event) -> None:
        self.finishes += 1
        if event.reports:
            self._take(event)
        flush = self.epoch and self.finishes % self.epoch == 0
        if len(self.arrived) < self.at_once and not flush:
            return
        self._receive()
        if self.server.full or (flush and self.server.filled):
            if self.step_waits:
                self.step_due = True
            else:
                self._step()

    def _close_window(self) -> None:
        """The grace window of a buffer that has its quorum has passed: step with what has come."""
        self.now_s = self.window.due_s
        self._receive()
        self._step()

    def _take(self, event: Event) -> None:
        """Wait for the result of a training that has finished."""
        # 4. A finish: wait for this client's result, whichever results have come before it.
        job = (event.client, event.participation)
        if job in self.pending:
            self._hand_out()
        result = self.workers.take(job)
        start_version = self.start_version.pop(job)
        if result.error:
            self.ledger.reason = f"failed: {result.error}"
            self.session.fault("client failed", result.rank, client=event.client, detail=result.error)
        else:
            self.arrived.append((event, start_version, result))

    def _receive(self) -> None:
        """The server takes all that has arrived; it has not moved meanwhile."""
        arrived, self.arrived = self.arrived, []
        if arrived:
            self._receive_all(arrived)
        self._expect()

    def _expect(self) -> None:
        self.window.look(self.server.quorate, self.now_s)
        self.at_once = max(1, min(self.most_at_once, self.ledger.room()))

    def _receive_all(self, arrived: list[Arrived]) -> None:
        examples, version = self.examples, self.server.version
        updates = [
            Update(
                event.client,
                start_version,
                result.payload,
                result.key,
                examples(event.client),
                event.t_s - event.start_s,
            )
            for event, start_version, result in arrived
        ]
        # 5. Decode the uploads into the buffer: buffer += s(τ) · u.
        weights = self.server.receive_all(updates)
        refused = self.ledger.found(self.server.findings, lambda i: self._origin(*arrived[i]), len(arrived))
        orders = places(weights, self.server.filled)
        digests = self.digests_of([update.payload for update in updates])
        # 6. Write down the updates, and see whether that was the run's last upload.
        rows = [
            (
                event.client,
                event.participation,
                start_version,
                version,
                version - start_version,
                weight,
                result.loss,
                update.examples,
                result.payload.size,
                update.train_seconds,
                event.start_s,
                event.t_s,
                USED if weight else REFUSED if i in refused else LATE,
                order,
                NO_RANK,
                digest,
            )
            for i, ((event, start_version, result), update, weight, order, digest) in enumerate(
                zip(arrived, updates, weights, orders, digests, strict=True)
            )
        ]
        self.ledger.received_all(rows, sum(update.payload.size for update in updates))

    def _origin(self, event: Event, start_version: int, result: Result) -> Origin:
        return Origin(event.client, result.rank, self.session.placement.hosts[result.rank], start_version)

    def _step(self) -> None:
        self.step_due = False
        self._hand_out()
        version = self.server.version
        if self.unicast:
            step = self.server.step(None)
        else:
            # 7. With K uploads in the buffer, step: x^{t+1}, q^t = Q_s(x^{t+1} − x̂^t), x̂^{t+1} = x̂^t + decode(q^t).
            step = self.server.step(self.payload)
            # 8. Publish q^t to every worker rank, behind the orders of before: MPI keeps the order.
            self.workers.publish(self.payload[: step.payload_bytes], version, step.key)
            self.ledger.sent_down(step.payload_bytes)
            self.down_links += step.payload_bytes * self.setup.clients
        if self.synchronous:  # those that the round did not wait for never finish
            self.start_version.clear()
            self.workers.forget()
        self.ledger.stepped(step, self.now_s)
        self._expect()

    def _close(self) -> RunSummary:
        # 9. Tell the workers to stop: first what overtakes their orders, then what comes behind them.
        self.workers.halt()
        self.ledger.close(self.now_s)
        self.workers.stop()
        server = self.server
        # 10. Check that every rank holds the same x̂, and merge the ranks' shards into one trace.
        self.session.close(
            server.version,
            server.x_hat,
            sent=self.workers.sent,
            received=self.workers.received,
            # A step that failed has moved the server's hidden state in part.
            shared_state=not self.unicast,
            compare=not self.ledger.reason.startswith("failed: server step"),
        )
        return self.session.finish(
            self.ledger,
            server.x,
            seconds=self.session.now_s(),
            virtual_seconds=self.now_s,
            down_links=self.down_links,
        )
