"""The replay itself: the server of the run, handed the recorded updates in the recorded order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.algorithms.server import Server, Step, Update
from qafel_mpi.codecs import NonFiniteError, PayloadError
from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.digests import digest
from qafel_mpi.drivers.replay.compare import Difference, apart, differing_byte, mended
from qafel_mpi.drivers.replay.plan import Plan
from qafel_mpi.drivers.replay.recorded import Recorded, ReplayError
from qafel_mpi.drivers.replay.repeat import Repeat
from qafel_mpi.drivers.virtual.workers import Job, Result, Workers
from qafel_mpi.trace_schema import REFUSED

AT_ONCE, AT_ONCE_BYTES = 64, 1 << 16  # uploads that the server takes in one call

Observe = Callable[[np.ndarray, list[Result], list[float]], None]  # rows of /updates, results, weights
ObserveStep = Callable[[Step, int], None]  # the step, and rows of /updates until then


@dataclass(frozen=True, slots=True)
class Upload:
    """An update as it is handed to the server.

    number: of its row in /updates. payload: uint8, as computed here, or mended. digest: the recorded one.
    """

    number: int
    client: int
    participation: int
    start_version: int
    version: int
    weight: float
    rank: int
    loss: float
    key: int
    payload: np.ndarray
    digest: int

    @property
    def same(self) -> bool:
        """Whether the payload is the recorded one, by its digest."""
        return digest(self.payload) == self.digest


class Replay:
    """The run's server at a moment: so many of the recorded uploads have been handed to it.

    anyway: go on with what is computed here where a payload differs. observe, observe_step: for the replay's trace.
    repeat: what trains an upload that differs again, at once. differences: uploads whose payload differed; slips:
    those of which a further training gave the recorded one.
    """

    def __init__(
        self,
        recorded: Recorded,
        setup: Setup,
        plan: Plan,
        server: Server,
        workers: Workers,
        *,
        anyway: bool = False,
        observe: Observe | None = None,
        observe_step: ObserveStep | None = None,
        repeat: Repeat | None = None,
    ):
        self.recorded, self.setup, self.server, self.workers = recorded, setup, server, workers
        self.anyway, self.observe, self.observe_step = anyway, observe, observe_step
        self.differences: list[Difference] = []
        self.slips: list[Difference] = []
        self.at = 0  # of recorded.served
        self.ended = False
        self._plan = plan
        self._begun = -1  # the newest version whose trainings were handed out
        rows = recorded.updates[recorded.served]
        # What was served at version t is served[ends[t - 1]:ends[t]].
        self._ends = np.searchsorted(rows["version"], np.arange(recorded.steps + 1), side="right").tolist()
        self._rows = rows
        self._payload = np.empty(setup.downlink.payload_bytes(), dtype=np.uint8)
        self._at_once = max(1, min(AT_ONCE, AT_ONCE_BYTES // setup.uplink.payload_bytes()))
        # On the wall clock the server was handed uploads of earlier rounds, too.
        self._forgets = recorded.experiment.server.synchronous and not recorded.wall
        self._refused = rows["use"] == REFUSED
        self._any_refused = bool(self._refused.any())
        self._as_they_are = _first_of_each_rank(recorded) if setup.unicast and recorded.wall else set()
        self._threads = _threads_of(recorded)
        self._held: dict[Job, Result] = {}  # taken from the workers and looked at, not handed in yet
        self._repeat = repeat if recorded.has_digests else None

    # --- what there is to see ---------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        return self.server.version

    @property
    def x(self) -> Tensor:
        """The model, (d,)."""
        return self.server.x

    @property
    def x_hat(self) -> Tensor:
        """The hidden state, (d,)."""
        return self.server.x_hat

    @property
    def buffer(self) -> Tensor:
        """The sum of the uploads since the last step, (d,)."""
        return self.server.buffer

    @property
    def next(self) -> Upload | None:
        """The upload that is handed in next, trained if it was not yet; None where there is none."""
        if self.at >= len(self._rows):
            return None
        self._begin()
        row = self._rows[self.at]
        result = self._result((int(row["client"]), int(row["participation"])))
        return Upload(
            number=int(self.recorded.served[self.at]),
            client=int(row["client"]),
            participation=int(row["participation"]),
            start_version=int(row["start_version"]),
            version=int(row["version"]),
            weight=float(row["weight"]),
            rank=self.recorded.sender(row),
            loss=result.loss,
            key=result.key,
            payload=result.payload,
            digest=int(row["digest"]),
        )

    def decoded(self, upload: Upload) -> Tensor:
        """The update itself, (d,)."""
        out = torch.zeros_like(self.server.x)
        self.setup.uplink.decode(upload.payload, out, upload.key)
        return out

    # --- going on ---------------------------------------------------------------------------------------------------

    def step(self) -> Upload | None:
        """Hand in one upload, and make the server step that it completes. None where all were handed in."""
        upload = self.next
        if upload is not None:
            self.advance(self.at + 1)
        return upload

    def advance(self, to: int) -> bool:
        """Hand in uploads until `to` of the served ones are, with the steps that they complete.

        False where one differs that can't be made good: it was not handed in, and is the last of differences.
        """
        to = min(to, len(self._rows))
        while self.at < to:
            self._step_if_due()
            self._begin()
            end = min(to, self.at + self._at_once, self._end())
            if not self._hand_in(end):
                return False
        self._step_if_due()
        return True

    def run(self, *, version: int | None = None, upload: int | None = None, most: int | None = None) -> bool:
        """To this version, or to just before this upload (a row of /updates), or to the end. As `advance`.

        most: uploads from here.
        """
        to = self._goal(version, upload)
        if not self.advance(to if most is None else min(to, self.at + most)):
            return False
        if self.at == len(self._rows) and not self.ended:
            self._end_as_recorded()
        return True

    def there(self, version: int | None, upload: int | None) -> bool:
        """Whether `run` has come to its end."""
        return self.at >= self._goal(version, upload)

    def _goal(self, version: int | None, upload: int | None) -> int:
        to = len(self._rows)
        if version is not None and version <= self.recorded.steps:
            to = self._ends[version - 1] if version else 0
        if upload is not None:
            to = min(to, int(np.searchsorted(self.recorded.served, upload)))
        return to

    def others(self) -> list[tuple[int, int, bool]]:
        """Of uploads that are trained and not handed in: (number, rank, whether the payload is as recorded)."""
        found = []
        ready = np.flatnonzero(self._rows["start_version"][self.at :] <= self._begun) + self.at
        for at in ready.tolist():
            row = self._rows[at]
            result = self._result((int(row["client"]), int(row["participation"])))
            same = not result.error and digest(result.payload) == int(row["digest"])
            found.append((int(self.recorded.served[at]), self.recorded.sender(row), same))
        return found

    def _end(self) -> int:
        """How many uploads the server is handed before it leaves this version."""
        version = self.server.version
        return self._ends[version] if version < self.recorded.steps else len(self._rows)

    def _begin(self) -> None:
        """Hand out the trainings that start from the version of now."""
        version = self.server.version
        if self._begun == version:
            return
        self._begun = version
        for batch in self._plan.batches(version):
            self._hand_out(batch, version)

    def _hand_out(self, batch: list[Job], version: int) -> None:
        if self.setup.unicast and batch[0] in self._as_they_are:
            self.workers.give(self.server.x, version)
        elif self.setup.unicast:
            client, participation = batch[0]
            size, key = self.server.download(self._payload, client=client, participation=participation)
            self.workers.download(self._payload[:size], version, key)
        self.workers.train(batch, version, self._threads(batch[0]))
        if self._repeat is not None:
            for at, job, first, result in self._repeat.looked_at(batch):
                self._held[job] = result
                if result is not first:
                    self.slips.append(self._difference(at, self._rows[at], first))

    def _result(self, job: Job) -> Result:
        if job not in self._held:
            self._held[job] = self.workers.take(job)
        return self._held[job]

    def _hand_in(self, end: int) -> bool:
        rows = self._rows[self.at : end]
        clients, starts = rows["client"].tolist(), rows["start_version"].tolist()
        jobs = list(zip(clients, rows["participation"].tolist(), strict=True))
        results = [self._held.pop(job) if job in self._held else self.workers.take(job) for job in jobs]
        good = len(results)
        wanted = rows["digest"].tolist() if self.recorded.has_digests else [None] * good
        for i, result in enumerate(results):
            if result.error or wanted[i] not in (None, digest(result.payload)):
                results[i] = self._look_at(self.at + i, rows[i], result)
                if self._refused[self.at + i]:
                    continue  # nothing of it reached the model
                good = i + 1
                if result.error or not (self.anyway or self.differences[-1].apart is not None):
                    good = i
                break
        self._held.update(zip(jobs[good:], results[good:], strict=True))
        if good:
            self._receive(rows[:good], clients[:good], starts[:good], results[:good])
        # One that was made good, or is used anyway, is the last that was handed in: the others come next.
        return good == len(results) or (good > 0 and self._was_handed_in())

    def _was_handed_in(self) -> bool:
        return bool(self.differences) and self.differences[-1].upload == int(
            self.recorded.served[self.at - 1]
        )

    def _receive(
        self, rows: np.ndarray, clients: list[int], starts: list[int], results: list[Result]
    ) -> None:
        examples, seconds = self.setup.task.examples, rows["train_seconds"].tolist()
        updates = [
            Update(client, start, result.payload, result.key, examples(client), trained_s)
            for client, start, result, trained_s in zip(clients, starts, results, seconds, strict=True)
        ]
        if self._any_refused:
            weights = self._received_some(updates, self._refused[self.at : self.at + len(rows)])
        else:
            weights = self.server.receive_all(updates)
        self.at += len(rows)
        if self.observe is not None:
            self.observe(rows, results, weights)

    def _received_some(self, updates: list[Update], refused: np.ndarray) -> list[float]:
        """The weights; 0 of those that the server of the run refused: it is not handed them here."""
        handed = [update for update, no in zip(updates, refused, strict=True) if not no]
        weights = np.zeros(len(updates))
        if handed:
            weights[~refused] = self.server.receive_all(handed)
        return [float(weight) for weight in weights]

    def _look_at(self, at: int, row: np.void, result: Result) -> Result:
        """Note an upload that differs. Returns the result to go on with: as it arrived, where that can be told."""
        found = self._difference(at, row, result)
        if not result.error and result.payload.size == found.payload_bytes:
            byte = differing_byte(result.payload, int(row["digest"]))
            if byte is not None:
                arrived = mended(result.payload, byte)
                by = apart(self.setup.uplink, arrived, result.payload, result.key)
                found = replace(found, byte=byte, apart=by)
                if not self.anyway and by is not None:
                    result = result._replace(payload=arrived)
        self.differences.append(found)
        return result

    def _difference(self, at: int, row: np.void, result: Result) -> Difference:
        rank, job = self.recorded.sender(row), (int(row["client"]), int(row["participation"]))
        return Difference(
            upload=int(self.recorded.served[at]),
            rank=rank,
            host=self.recorded.hosts.get(rank, "an unknown host"),
            client=job[0],
            participation=job[1],
            start_version=int(row["start_version"]),
            version=int(row["version"]),
            payload_bytes=int(row["payload_bytes"]),
            computed_bytes=int(result.payload.size),
            loss=float(row["loss"]),
            computed_loss=result.loss,
            failure=result.error,
            repeats=None if self._repeat is None else self._repeat.made.get(job),
            **self._norms(row, result),
        )

    def _norms(self, row: np.void, result: Result) -> dict[str, Any]:
        """Of a Difference, where the run recorded what it encoded."""
        recorded = self.recorded.norms.get((int(row["client"]), int(row["participation"])))
        if recorded is None or result.error:
            return {}
        update = torch.zeros_like(self.server.x)
        try:
            self.setup.uplink.decode(result.payload, update, result.key)
        except PayloadError:
            return {}
        return {"norm": recorded[0], "error": recorded[1], "computed_norm": float(update.double().norm())}

    def _step_if_due(self) -> None:
        if self.server.version < self.recorded.steps and self.at == self._end():
            self._begin()  # nobody starts from a version that is left; but batches are asked for in order
            self._step()

    def _step(self) -> None:
        version, measure = self.server.version, self.observe_step is not None
        if self.setup.unicast:
            step = self.server.step(None, measure=measure)
        else:
            step = self.server.step(self._payload, measure=measure)
            self.workers.publish(self._payload[: step.payload_bytes], version, step.key)
        if self._forgets:
            self.workers.forget()
        if self.observe_step is not None:
            self.observe_step(step, int(self.recorded.served[self.at - 1]) + 1 if self.at else 0)

    def _end_as_recorded(self) -> None:
        """A run that ended in a step that was not finite: the same step, as far as it went."""
        self.ended = True
        if not self.recorded.step_failed:
            return
        try:
            self.server.step(None if self.setup.unicast else self._payload)
        except NonFiniteError:
            return
        raise ReplayError(
            f"{self.recorded.path}: the run ended in a server step that was not finite, and here it is"
        )


def _first_of_each_rank(recorded: Recorded) -> set[Job]:
    """Unicast on the wall clock: the trainings before a rank's first download, from x itself.

    So does each rank begin, and begin again where the run went on from a checkpoint.
    """
    found: set[Job] = set()
    for begin in (0, *recorded.resumed_at):
        rows = recorded.updates[max(0, begin) :]
        _, first = np.unique(rows["rank"], return_index=True)
        found.update(zip(rows["client"][first].tolist(), rows["participation"][first].tolist(), strict=True))
    return found


def _threads_of(recorded: Recorded) -> Callable[[Job], int]:
    """A function that gives the threads that a client was trained with: those of its rank."""
    if not recorded.wall:
        return lambda job: 1
    counts = {count for rank, count in recorded.threads.items() if rank}
    if len(counts) < 2:
        one = counts.pop() if counts else 1
        return lambda job: one
    rows = recorded.updates[recorded.served]
    jobs = zip(rows["client"].tolist(), rows["participation"].tolist(), strict=True)
    ranks = dict(zip(jobs, rows["rank"].tolist(), strict=True))
    ranks |= {(one.client, one.participation): one.rank for one in recorded.unseen}
    return lambda job: recorded.threads.get(ranks[job], 1)
