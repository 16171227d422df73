"""The trace of a replay: the run's rows and times, with what was computed here."""

from __future__ import annotations

from typing import Any

import numpy as np

from qafel_mpi.algorithms.server import Step
from qafel_mpi.drivers.digests import digest
from qafel_mpi.drivers.ledger import Ledger
from qafel_mpi.drivers.replay.recorded import Recorded
from qafel_mpi.drivers.virtual.workers import Result
from qafel_mpi.trace_schema import DROPPED, TABLES

TABLES_AGAIN = tuple(name for name in TABLES if name != "messages")  # a replay's are not the run's
KEPT = ("seconds", "virtual_seconds", "down_links", "skipped_versions")  # of the run, as it had them
NAMES = TABLES["updates"].names or ()
WEIGHT, LOSS, SIZE, DIGEST = (NAMES.index(name) for name in ("weight", "loss", "payload_bytes", "digest"))


class Again:
    """Writes the rows as the replay comes to them."""

    def __init__(self, recorded: Recorded, ledger: Ledger):
        self.recorded, self.ledger = recorded, ledger
        self._written = 0  # rows of /updates
        steps = recorded.step_rows
        self._time_s = dict(zip(steps["version"].tolist(), steps["time_s"].tolist(), strict=True))
        self._down_bytes = dict(
            zip(steps["version"].tolist(), steps["payload_bytes_down"].tolist(), strict=True)
        )

    def handed_in(self, rows: np.ndarray, results: list[Result], weights: list[float]) -> None:
        for row, result, weight in zip(rows.tolist(), results, weights, strict=True):
            number = int(self.recorded.served[self._served])
            self._copy(until=number)
            found = list(row)
            found[WEIGHT], found[LOSS] = weight, result.loss
            found[SIZE], found[DIGEST] = result.payload.size, digest(result.payload)
            self.ledger.received_all([tuple(found)], result.payload.size)
            self._written, self._served = number + 1, self._served + 1

    _served = 0

    def stepped(self, step: Step, rows: int) -> None:
        version = step.version
        down = self._down_bytes.get(version, 0) - self._down_bytes.get(version - 1, 0)
        if down:
            self.ledger.sent_down(down)
        self.ledger.stepped(step, self._time_s.get(version, float("nan")))

    def end(self, *, whole: bool) -> None:
        """The rows behind the last that the server was handed, and the outcome."""
        if whole:
            self._copy(until=len(self.recorded.updates))
        self.ledger.reason = str(self.recorded.attributes.get("outcome", "finished")) if whole else "finished"
        self.ledger.close(float(self.recorded.attributes.get("seconds", 0.0)))
        if whole:
            self.ledger.reason = str(self.recorded.attributes.get("outcome", "finished"))

    def attributes(self) -> dict[str, Any]:
        """Of the run, for the trace and the summary."""
        return {name: self.recorded.attributes[name] for name in KEPT if name in self.recorded.attributes}

    def _copy(self, until: int) -> None:
        """Rows of what the server was never handed."""
        for row in self.recorded.updates[self._written : until]:
            if int(row["use"]) == DROPPED:
                self.ledger.recorder.updates.append(row.item())
            else:
                self.ledger.received_all([row.item()], int(row["payload_bytes"]))
        self._written = max(self._written, until)
