"""The trace of a replay: the run's rows and times, with what was computed here."""

from __future__ import annotations

from typing import Any

import numpy as np

from qafel_mpi.algorithms.server import Step
from qafel_mpi.drivers.digests import digest
from qafel_mpi.drivers.ledger import Ledger
from qafel_mpi.drivers.replay.recorded import Recorded
from qafel_mpi.drivers.virtual.workers import Result
from qafel_mpi.trace_schema import DROPPED, HEADER_BYTES, TABLES

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
        self._down = {
            version: (payload_bytes, messages)
            for version, payload_bytes, messages in steps[
                ["version", "payload_bytes_down", "messages_down"]
            ].tolist()
        }

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
        (now, sent), (before, sent_before) = (self._down.get(v, (0, 0)) for v in (version, version - 1))
        if now > before:
            self.ledger.sent_down(
                now - before, max(1, sent - sent_before)
            )  # older traces say −1: not how many
        self.ledger.stepped(step, self._time_s.get(version, float("nan")))

    def end(self, *, whole: bool) -> None:
        """The rows behind the last that the server was handed, what was sent down behind it, and the outcome."""
        if whole:
            self._copy(until=len(self.recorded.updates))
            self._sent_down()
        self.ledger.reason = str(self.recorded.attributes.get("outcome", "finished")) if whole else "finished"
        self.ledger.close(float(self.recorded.attributes.get("seconds", 0.0)))
        if whole:
            self.ledger.reason = str(self.recorded.attributes.get("outcome", "finished"))

    def _sent_down(self) -> None:
        """All that the run counted: its last downloads came behind its last step."""
        about, ledger = self.recorded.attributes, self.ledger
        if "wire_bytes_down" in about:
            payload_bytes = int(about["payload_bytes_down"])
            messages = (int(about["wire_bytes_down"]) - payload_bytes) // HEADER_BYTES
            ledger.sent_down(payload_bytes - ledger.payload_bytes_down, messages - ledger.messages_down)

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
