"""What the downlink would have cost without a broadcast: every client downloads when it starts.

/updates says which version each training started from. A client of a hidden-state algorithm lacks the payloads
of the server steps since the newest version that it has held, and gets those or the full model, whichever is smaller;
all others get one message with the model. x⁰ is not counted, as it is not in the broadcasts. Trainings that never
reported are not in the trace. Payloads have the sizes that the broadcasts had, which /steps adds up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qafel_mpi.trace.reader import Trace
from qafel_mpi.trace_schema import HEADER_BYTES

MOST_CLIENTS = 100_000_000
PAPER_ELEMENT_BYTES = 4  # of a model that is not quantized, by the paper's formula


@dataclass
class Unicast:
    """Totals over the trainings that are in the trace so far, in order of arrival."""

    hidden: bool
    versions: np.ndarray  # of /steps
    bytes_down: np.ndarray  # of all broadcasts up to each of them
    message_bytes: float  # of one broadcast beyond them, at most
    full_bytes: float  # of the model in the task's own precision
    paper_message_bytes: float = float("nan")  # by the paper's formula
    paper_full_bytes: float = float("nan")
    payload_bytes: float = 0.0
    paper_bytes: float = 0.0
    messages: int = 0

    def __post_init__(self) -> None:
        self._held = np.zeros(0, dtype=np.int64)  # by client: the newest version that it started from

    @classmethod
    def of(cls, trace: Trace, steps: np.ndarray) -> Unicast:
        """steps: the rows of /steps."""
        attributes, experiment = trace.attributes, trace.experiment
        element_bytes = 8 if experiment.get("task", {}).get("dtype") == "float64" else 4
        identity = attributes.get("downlink_codec") == "identity"
        parameters = attributes.get("parameters", np.nan)
        return cls(
            hidden=experiment.get("downlink", {}).get("mode") == "hidden" and not identity,
            versions=steps["version"],
            bytes_down=steps["payload_bytes_down"],
            message_bytes=float(attributes.get("payload_bytes_per_broadcast", np.nan)),
            full_bytes=float(element_bytes * parameters),
            paper_message_bytes=float(attributes.get("paper_bytes_per_broadcast", np.nan)),
            paper_full_bytes=float(PAPER_ELEMENT_BYTES * parameters),
        )

    def add(self, updates: np.ndarray) -> None:
        """updates: the next rows of /updates."""
        version = updates["start_version"]
        held = self._held_before(updates["client"], version) if self.hidden else np.maximum(version - 1, 0)
        missed = np.maximum(version - held, 0)
        payload_bytes = np.where(missed > 0, self._down(version) - self._down(held), 0.0)
        full = self.hidden & (payload_bytes > self.full_bytes)
        paper_bytes = np.where(full, self.paper_full_bytes, missed * self.paper_message_bytes)
        self.messages += int((missed > 0).sum())
        self.payload_bytes += float(np.where(full, self.full_bytes, payload_bytes).sum())
        self.paper_bytes += float(paper_bytes.sum())

    def totals(self, suffix: str = "") -> dict[str, float]:
        """As columns of a run's row."""
        return {
            f"payload_bytes_unicast{suffix}": self.payload_bytes,
            f"wire_bytes_unicast{suffix}": self.payload_bytes + HEADER_BYTES * self.messages,
            f"paper_bytes_unicast{suffix}": self.paper_bytes,
        }

    def _down(self, version: np.ndarray) -> np.ndarray:
        """Bytes of all broadcasts up to these versions."""
        if not len(self.versions):
            return self.message_bytes * version
        beyond = np.maximum(version - self.versions[-1], 0)
        more = np.where(beyond > 0, self.message_bytes * beyond, 0.0)
        return np.interp(version, self.versions, self.bytes_down) + more

    def _held_before(self, client: np.ndarray, version: np.ndarray) -> np.ndarray:
        """The newest version that each client held before, trainings of one client in any order."""
        if client.size == 0:
            return np.zeros(0, dtype=np.int64)
        if not 0 <= client.min() <= client.max() < MOST_CLIENTS:
            raise ValueError(f"client {client.max() if client.min() >= 0 else client.min()} in /updates")
        grown = int(client.max()) + 1 - self._held.size
        if grown > 0:
            self._held = np.concatenate([self._held, np.zeros(grown, dtype=np.int64)])
        order = np.argsort(client, kind="stable")
        client, version = client[order], version[order]
        first = np.ones(client.size, dtype=bool)
        first[1:] = client[1:] != client[:-1]
        newest = np.where(first, np.maximum(version, self._held[client]), version)
        newest = _largest_so_far(newest, np.cumsum(first) - 1)
        before = np.empty_like(newest)
        before[1:] = newest[:-1]
        before[first] = self._held[client[first]]
        last = np.roll(first, -1)
        self._held[client[last]] = newest[last]
        found = np.empty_like(before)
        found[order] = before
        return found


def _largest_so_far(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The running maximum within each group; groups are numbered in order.

    >>> _largest_so_far(np.array([5, 3, 6, 1, 0]), np.array([0, 0, 0, 1, 1])).tolist()
    [5, 5, 6, 1, 1]
    """
    apart = group * (int(values.max(initial=0)) - int(values.min(initial=0)) + 1)
    return np.maximum.accumulate(values + apart) - apart
