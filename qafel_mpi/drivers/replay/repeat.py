"""An upload that differs, trained again at once: whether the run computed it otherwise, or this machine just did.

In one process alone, where x̂ is still the one that the training started from.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.digests import digest
from qafel_mpi.drivers.replay.compare import FIRST, OTHER, RECORDED, Apart, Repeats, apart
from qafel_mpi.drivers.replay.recorded import Recorded
from qafel_mpi.drivers.virtual.workers import Job, LocalWorkers, Result, Trainer
from qafel_mpi.trace.recorder import Recorder

MOST = 3  # uploads that no training gave, and that are trained again: with --anyway all may differ


class Repeat:
    """Trains an upload that differs again, in the batch that `workers` has just trained, and by itself where that
    gives the same bits; each twice.

    Not with error feedback, where a training changes what the client's next one starts with. made: what came of it.
    """

    def __init__(self, recorded: Recorded, setup: Setup, workers: LocalWorkers, recorder: Recorder):
        self._setup, self._workers, self._recorder = setup, workers, recorder
        rows = recorded.updates[recorded.served]
        self._places, self._digests = Places(rows), rows["digest"]
        self.made: dict[Job, Repeats] = {}
        self._in_vain = 0

    def looked_at(self, batch: list[Job]) -> Iterator[tuple[int, Job, Result, Result]]:
        """Of those whose update was handed to the server: its row there, the job, its first result, and the one to go
        on with: where a further training gave the recorded bits, that of this training."""
        for job, at in zip(batch, self._places.of(batch), strict=True):
            if at < 0:
                continue
            first, wanted = self._workers.take(job), int(self._digests[at])
            differs = first.error or digest(first.payload) != wanted
            found = self._tried(batch, job, first, wanted) if differs and self._in_vain < MOST else first
            yield at, job, first, found

    def _tried(self, batch: list[Job], job: Job, first: Result, wanted: int) -> Result:
        gave, found, other = [], first, None
        for how, result in self._trained(batch, job):
            if not result.error and digest(result.payload) == wanted:
                what, found = RECORDED, result
            elif result.error == first.error and np.array_equal(result.payload, first.payload):
                what = FIRST
            else:
                what, other = OTHER, other or result
            gave.append((how, what))
        second = found if found is not first else other
        self.made[job] = Repeats(tuple(gave), None if second is None else self._apart(second, first))
        self._in_vain += found is first
        return found

    def _trained(self, batch: list[Job], job: Job) -> Iterator[tuple[str, Result]]:
        """In memory of its own: what lay in the first training's is not met again."""
        trainer = Trainer(self._setup, self._workers.trainer.client, self._recorder)
        trainer.errors = None  # recorded once
        alone = [("alone", [job])] if len(batch) == 1 or self._setup.task.same_bits_together else []
        together = [("in its batch", batch)] if len(batch) > 1 else []
        for how, jobs in 2 * (alone + together):
            outs = np.empty((len(jobs), self._setup.uplink.payload_bytes()), dtype=np.uint8)
            results = trainer.train(jobs, self._workers.start, outs, self._workers.poll)
            yield how, results[jobs.index(job)]

    def _apart(self, second: Result, first: Result) -> Apart | None:
        if first.error or second.error:
            return None
        return apart(self._setup.uplink, second.payload, first.payload, first.key)


class Places:
    """Where the updates of jobs stand among rows of /updates."""

    def __init__(self, rows: np.ndarray):
        names = _names(rows["client"], rows["participation"])
        self._rows = np.argsort(names, kind="stable")
        self._names = names[self._rows]

    def of(self, jobs: list[Job]) -> list[int]:
        """The row of each; -1 where it has none."""
        wanted = _names(*np.array(jobs, dtype=np.int64).T)
        found = np.searchsorted(self._names, wanted)
        ends = np.searchsorted(self._names, wanted, side="right")
        return [int(self._rows[at]) if at < end else -1 for at, end in zip(found, ends, strict=True)]


def _names(clients: np.ndarray, participations: np.ndarray) -> np.ndarray:
    """One number for each pair."""
    return clients.astype(np.int64) << 32 | participations.astype(np.int64)
