"""The virtual-clock driver: an event-driven simulation of many clients; the other ranks are workers.

Rank 0 keeps the schedule and the server and takes results in virtual order, never in order of arrival. The
result is a function of the experiment and its seed: bit-identical for any number of ranks, given one torch
thread a rank (or reductions that don't depend on threads) and processors of one type. /final's digests show it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

from qafel_mpi.algorithms.client import Client
from qafel_mpi.algorithms.server import Update
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
from qafel_mpi.drivers.ledger import Ledger
from qafel_mpi.drivers.session import Session, begin
from qafel_mpi.drivers.workers import Job, LocalWorkers, RemoteWorkers, Worker, Workers
from qafel_mpi.schedule.events import START, Event, schedule
from qafel_mpi.transport.placement import place

TICK_EVENTS = 256  # events between looks at interrupts and the trace's flush


def run(
    experiment: Experiment,
    comm: MPI.Intracomm | None,
    out: Path,
    *,
    data_dir: Path | None = None,
    command_line: list[str] | None = None,
    interrupted: Interrupted = lambda: False,
    report: Report | None = None,
) -> RunSummary:
    """Collective: run the experiment and write the trace file `out`; the same summary on every rank.

    comm: None for one process without a launcher. Raises ConfigError and DataError where it can't run.
    """
    comm = comm or MPI.COMM_SELF
    spot = place(comm, gpus=visible_gpus())
    device = compute_device(spot.gpu if comm.size == 1 or comm.rank > 0 else None)
    # One thread: a reduction's result may depend on the number of threads, and so on the number of ranks.
    setup = build(experiment, clients=experiment.task.clients, device=device, threads=1, data_dir=data_dir)
    session = begin(experiment, comm, spot, out, command_line or sys.argv)
    session.open(setup)
    if comm.rank > 0:
        worker = Worker(session, setup)
        worker.run()
        replica = worker.replica
        session.close(
            replica.version,
            replica.x_hat,
            sent=worker.sends.total,
            received=worker.inbox.total,
            shared_state=not setup.unicast,
        )
        return session.finish(None, None)
    return Simulation(session, setup, interrupted, report).run()


class Simulation:
    """Rank 0's loop over events."""

    def __init__(self, session: Session, setup: Setup, interrupted: Interrupted, report: Report | None):
        self.session, self.setup, self.interrupted = session, setup, interrupted
        e = session.experiment
        self.server = setup.server()
        self.ledger = Ledger(setup, self.server, session.recorder, report)
        self.schedule = schedule(
            e.clock,
            clients=setup.clients,
            seed=e.seed,
            buffer_size=e.server.buffer_size,
            synchronous=e.server.synchronous,
        )
        client = Client(
            self.server.replica, setup.uplink, seed=e.seed, sends_model=e.server.update == "model"
        )
        alone = session.comm.size == 1
        self.workers: Workers = LocalWorkers(setup, client) if alone else RemoteWorkers(session, setup)
        self.pending: list[Job] = []  # a batch that is not handed out yet, all from the newest version
        self.waiting: set[Job] = set()  # the same, for looking up
        self.start_version: dict[Job, int] = {}
        self.together = 1 if setup.unicast else setup.task.together
        self.payload = np.empty(setup.downlink.payload_bytes(), dtype=np.uint8)
        # "always": the client of a finish restarts before or after the step that its update completes.
        self.step_waits = e.clock.start == "always" and e.clock.restart_before_step
        self.step_due = False
        self.finishes = 0
        self.down_links = 0

    def run(self) -> RunSummary:
        self.ledger.open()
        now_s, events = 0.0, 0
        while not self.ledger.reason:
            event = self.schedule.next(self.server.version)
            now_s = event.t_s
            if event.kind == START:
                self._start(event)
                if self.step_due:
                    self._step(now_s)
            else:
                self._finish(event)
            events += 1
            if events % TICK_EVENTS == 0:
                self._tick(now_s)
        if self.step_due:
            self._step(now_s)
        self.workers.stop()
        self.ledger.close(now_s)
        server = self.server
        self.session.close(
            server.version,
            server.x_hat,
            sent=self.workers.sent,
            received=self.workers.received,
            shared_state=not self.setup.unicast,
        )
        return self.session.finish(
            self.ledger,
            server.x,
            seconds=self.session.now_s(),
            virtual_seconds=now_s,
            down_links=self.down_links,
        )

    def _tick(self, now_s: float) -> None:
        self.ledger.tick(now_s)
        self.session.recorder.flush_if_due()
        seconds = self.session.experiment.stop.seconds
        if self.interrupted():
            self.ledger.reason = self.ledger.reason or "interrupted"
        elif seconds is not None and self.session.now_s() >= seconds:
            self.ledger.reason = self.ledger.reason or "finished"

    def _start(self, event: Event) -> None:
        """A client takes the newest version; its training is handed out with its batch."""
        if not event.reports:
            return  # nobody will ever see what it computes
        job = (event.client, event.participation)
        self.start_version[job] = self.server.version
        if self.setup.unicast:
            size, key = self.server.download(
                self.payload, client=event.client, participation=event.participation
            )
            self.workers.download(self.payload[:size], self.server.version, key)
            self.ledger.sent_down(size)
            self.down_links += size
        self.pending.append(job)
        self.waiting.add(job)
        if len(self.pending) >= self.together:
            self._hand_out()

    def _hand_out(self) -> None:
        """The batch as it stands: when it is full, when the version moves on, when a member's result is due."""
        if self.pending:
            self.workers.train(self.pending, self.server.version)
            self.pending = []
            self.waiting.clear()

    def _finish(self, event: Event) -> None:
        self.finishes += 1
        if event.reports:
            self._receive(event)
        epoch = self.session.experiment.clock.flush_epoch and self.finishes % self.setup.clients == 0
        if self.server.full or (epoch and self.server.filled):
            if self.step_waits:
                self.step_due = True
            else:
                self._step(event.t_s)

    def _receive(self, event: Event) -> None:
        job = (event.client, event.participation)
        if job in self.waiting:
            self._hand_out()
        result = self.workers.take(job)
        start_version = self.start_version.pop(job)
        examples = self.setup.task.examples(event.client)
        weight = self.server.receive(
            Update(event.client, start_version, result.payload, result.key, examples)
        )
        self.ledger.received(
            client=event.client,
            participation=event.participation,
            start_version=start_version,
            weight=weight,
            loss=result.loss,
            examples=examples,
            payload_bytes=result.payload.size,
            train_seconds=event.t_s - event.start_s,
            start_s=event.start_s,
            finish_s=event.t_s,
        )

    def _step(self, now_s: float) -> None:
        self.step_due = False
        self._hand_out()
        version = self.server.version
        if self.setup.unicast:
            step = self.server.step(None)
        else:
            step = self.server.step(self.payload)
            self.workers.publish(self.payload[: step.payload_bytes], version, step.key)
            self.ledger.sent_down(step.payload_bytes)
            self.down_links += step.payload_bytes * self.setup.clients
        self.ledger.stepped(step, now_s)
        self.ledger.tick(now_s)
