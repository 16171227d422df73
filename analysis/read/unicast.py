"""What the downlink would have cost without a broadcast: every client downloads when it starts.

/updates says which version each training started from. A client of a hidden-state algorithm lacks the payloads
of the server steps since its last start, and gets those or the full model, whichever is smaller; all others get
one message with the model. x⁰ is not counted, as it is not in the broadcasts. Trainings that never reported are
not in the trace.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qafel_mpi.trace.reader import Trace

MOST_CLIENTS = 100_000_000


@dataclass
class Unicast:
    """Totals over the trainings that are in the trace so far, in order of arrival."""

    hidden: bool
    message_bytes: float  # of one broadcast
    full_bytes: float  # of the model in the task's own precision
    payload_bytes: float = 0.0
    messages: int = 0

    def __post_init__(self) -> None:
        self._last = np.zeros(0, dtype=np.int64)  # by client: the version of its last start

    @classmethod
    def of(cls, trace: Trace) -> Unicast:
        attributes, experiment = trace.attributes, trace.experiment
        element_bytes = 8 if experiment.get("task", {}).get("dtype") == "float64" else 4
        identity = attributes.get("downlink_codec") == "identity"
        return cls(
            hidden=experiment.get("downlink", {}).get("mode") == "hidden" and not identity,
            message_bytes=float(attributes.get("payload_bytes_per_broadcast", np.nan)),
            full_bytes=float(element_bytes * attributes.get("parameters", np.nan)),
        )

    def add(self, updates: np.ndarray) -> None:
        """updates: the next rows of /updates."""
        if not self.hidden:
            self.messages += len(updates)
            self.payload_bytes += self.message_bytes * len(updates)
            return
        missed = self._missed(updates["client"], updates["start_version"])
        self.messages += int((missed > 0).sum())
        self.payload_bytes += float(np.minimum(missed * self.message_bytes, self.full_bytes).sum())

    def _missed(self, client: np.ndarray, version: np.ndarray) -> np.ndarray:
        """Server steps between each start and the start before it of the same client, in any order."""
        if client.size == 0:
            return np.zeros(0, dtype=np.int64)
        if not 0 <= client.min() <= client.max() < MOST_CLIENTS:
            raise ValueError(f"client {client.max() if client.min() >= 0 else client.min()} in /updates")
        grown = int(client.max()) + 1 - self._last.size
        if grown > 0:
            self._last = np.concatenate([self._last, np.zeros(grown, dtype=np.int64)])
        order = np.argsort(client, kind="stable")
        client, version = client[order], version[order]
        before = np.empty_like(version)
        before[1:] = version[:-1]
        first = np.ones(client.size, dtype=bool)
        first[1:] = client[1:] != client[:-1]
        before[first] = self._last[client[first]]
        last = np.roll(first, -1)
        self._last[client[last]] = np.maximum(self._last[client[last]], version[last])
        return np.maximum(version - before, 0)
