"""Which clients are trained from which version, in which batches: from the trace alone, or with it from the schedule.

On the wall clock every rank trained one client at a time, from the newest version that it had: all that start from
version t are trained when the replay is at version t, so that no older version is kept. On the virtual clock a batch
may have had members whose update the run never used, and a batch's bits depend on its members: the schedule tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from qafel_mpi.drivers.replay.recorded import Recorded, ReplayError
from qafel_mpi.drivers.virtual.workers import Job
from qafel_mpi.schedule.events import START, Schedule
from qafel_mpi.schedule.window import GraceWindow
from qafel_mpi.trace_schema import USED


class Plan(Protocol):
    """The batches of a run, version by version."""

    def batches(self, version: int) -> Iterator[list[Job]]:
        """Those that start from this version; asked for once each, versions in order."""


class OfTheTrace:
    """Of a wall run: the updates that the server was handed, by the version that each started from; with what they
    depend on.

    most: clients of a batch, where one gives the bits of clients that are trained alone; else 1.
    """

    def __init__(self, recorded: Recorded, most: int):
        rows = recorded.updates[recorded.served]
        if (rows["start_version"] > rows["version"]).any() or (rows["start_version"] < 0).any():
            raise ReplayError(f"{recorded.path}: an update starts from a version that there was not yet")
        pairs, versions = np.stack([rows["client"], rows["participation"]], axis=1), rows["start_version"]
        if recorded.unseen:
            unseen = np.array(recorded.unseen)
            pairs = np.concatenate([pairs, unseen[:, :2]])
            versions = np.concatenate([versions, unseen[:, 2]])
        # As they came; but where a client keeps something for its next training, in its own order: of two uploads
        # of a rank that are under way, the later one may be complete first.
        keeps = recorded.experiment.client.error_feedback
        order = np.lexsort((pairs[:, 1], versions)) if keeps else np.argsort(versions, kind="stable")
        self._pairs, self._versions = pairs[order], versions[order]
        self._most = max(1, most)

    def batches(self, version: int) -> Iterator[list[Job]]:
        begin, end = np.searchsorted(self._versions, [version, version + 1]).tolist()
        for at in range(begin, end, self._most):
            pairs = self._pairs[at : min(end, at + self._most)].tolist()
            yield [(client, participation) for client, participation in pairs]


class OfTheSchedule:
    """Of a virtual run: its schedule once more, whose finishes the trace must have in the same order.

    together: clients of a full batch.
    """

    def __init__(self, recorded: Recorded, schedule: Schedule, *, together: int):
        self._recorded, self._schedule, self._together = recorded, schedule, together
        clock = recorded.experiment.clock
        self._step_waits = clock.start == "always" and clock.restart_before_step
        self._window = GraceWindow(recorded.experiment.server.grace_seconds)
        self._epoch = recorded.clients if clock.flush_epoch else 0
        self._walk = self._walked()
        self._next: tuple[int, list[Job]] | None = None

    def batches(self, version: int) -> Iterator[list[Job]]:
        while True:
            found = self._next or next(self._walk, None)
            self._next = found
            if found is None or found[0] > version:
                return
            self._next = None
            yield found[1]

    def _walked(self) -> Iterator[tuple[int, list[Job]]]:
        """(version, batch), as drivers/virtual/run.py hands them out, with its names."""
        rows = self._recorded.updates[self._recorded.served]
        server, window = self._recorded.experiment.server, self._window
        buffer_size, quorum = server.buffer_size, server.quorum or server.buffer_size
        version = taken = filled = finishes = 0
        pending: dict[Job, None] = {}
        step_due = False
        while taken < len(rows):
            event = self._schedule.next(version)
            if window.due_s < event.t_s:
                if pending:
                    yield version, list(pending)
                    pending = {}
                version, filled = version + 1, 0
                window.look(False, event.t_s)
            job = (event.client, event.participation)
            if event.kind == START:
                if event.reports:
                    pending[job] = None
                if len(pending) < self._together and not step_due:
                    continue
            else:
                finishes += 1
                if event.reports:
                    self._compare(taken, rows[taken], job, version)
                    filled += int(rows["use"][taken] == USED)
                    taken += 1
                    window.look(quorum <= filled < buffer_size, event.t_s)
                flush = bool(self._epoch and finishes % self._epoch == 0 and filled)
                step_due = filled == buffer_size or flush
                if not (event.reports and job in pending) and (self._step_waits or not step_due):
                    continue
            if pending:
                yield version, list(pending)
                pending = {}
            if step_due and (event.kind == START) == self._step_waits:
                version, filled, step_due = version + 1, 0, False
                window.look(False, event.t_s)

    def _compare(self, taken: int, row: np.void, job: Job, version: int) -> None:
        recorded = (int(row["client"]), int(row["participation"]), int(row["version"]))
        if recorded != (*job, version):
            there, here = (
                "client {}, participation {}, at version {}".format(*values)
                for values in (recorded, (*job, version))
            )
            raise ReplayError(
                f"{self._recorded.path}: upload {self._recorded.served[taken]} is of {there}; this program's "
                f"schedule has {here}: it is another program, or the trace was changed"
            )
