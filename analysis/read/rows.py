"""Runs as rows: what each cost and what it reached, at its end and at its target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from qafel_analysis.read.energy import energy, energy_notes
from qafel_analysis.read.settings import settings
from qafel_analysis.read.unicast import Unicast

from qafel_mpi.trace.reader import Trace, TraceError, open_trace
from qafel_mpi.trace_schema import FAULT_NAMES, HEADER_BYTES, taken

# The contract of `table --json`; an object has at least these keys, in this order.
KEYS = (
    "run",
    "algorithm",
    "seed",
    "dataset",
    "model",
    "driver",
    "uplink_codec",
    "uplink_bits",
    "downlink_codec",
    "downlink_bits",
    "buffer_size",
    "ranks",
    "clients",
    "parameters",
    "uploads",
    "server_steps",
    "target",
    "uploads_to_target",
    "steps_to_target",
    "seconds_to_target",
    "accuracy",
    "loss",
    "payload_bytes_up",
    "payload_bytes_down",
    "payload_bytes_unicast",
    "wire_bytes_up",
    "wire_bytes_down",
    "wire_bytes_unicast",
    "down_links",
    "paper_bytes_per_upload",
    "paper_bytes_per_broadcast",
    "paper_bytes_up",
    "paper_bytes_down",
    "paper_bytes_unicast",
    "payload_bytes_up_to_target",
    "payload_bytes_down_to_target",
    "payload_bytes_unicast_to_target",
    "wire_bytes_up_to_target",
    "wire_bytes_down_to_target",
    "wire_bytes_unicast_to_target",
    "paper_bytes_up_to_target",
    "paper_bytes_down_to_target",
    "paper_bytes_unicast_to_target",
    "mean_staleness",
    "max_staleness",
    "dropped_messages",
    "rejected_updates",
    "clipped_updates",
    "rank_0_memory_bytes",
    "rank_0_memory_growth_bytes",
    "seconds",
    "virtual_seconds",
    "started",
    "x_digest",
    "outcome",
    "bits_per_byte",
    "entropy_bits_per_byte",
    "faults",
    "cpu_joules",
    "gpu_joules",
    "cpu_joules_per_upload",
    "gpu_joules_per_upload",
)


# The costs to the target, and the column that has them at the run's end.
_AT_END = {
    key: key.removesuffix("_to_target") for key in KEYS if "_bytes_" in key and key.endswith("_to_target")
} | {
    "steps_to_target": "server_steps",
    "seconds_to_target": "seconds",
}


@dataclass(frozen=True)
class Target:
    """What a run is asked to reach: an accuracy, a loss, or whichever of the two comes first."""

    accuracy: float | None = None
    loss: float | None = None

    @classmethod
    def of(cls, trace: Trace) -> Target:
        """The experiment's own."""
        stop = trace.experiment.get("stop", {})
        return cls(stop.get("accuracy"), stop.get("loss"))

    def __bool__(self) -> bool:
        return self.accuracy is not None or self.loss is not None

    def __str__(self) -> str:
        parts = [] if self.accuracy is None else [f"accuracy ≥ {self.accuracy:g}"]
        parts += [] if self.loss is None else [f"loss ≤ {self.loss:g}"]
        return " or ".join(parts)

    def first(self, steps: np.ndarray) -> int | None:
        """The first row of /steps whose evaluation is at or past the target."""
        reached = np.zeros(len(steps), dtype=bool)
        if self.accuracy is not None:
            reached |= steps["accuracy"] >= self.accuracy  # nan, not evaluated, is neither
        if self.loss is not None:
            reached |= steps["loss"] <= self.loss
        return int(reached.argmax()) if reached.any() else None


def row(path: Path, target: Target | None = None) -> dict[str, Any]:
    """One run as an object with KEYS; null where the trace does not say. Raises TraceError.

    target: in place of the experiment's own.
    """
    with open_trace(path, salvage=True) as trace:
        return row_of(trace, target)


def row_of(trace: Trace, target: Target | None = None) -> dict[str, Any]:
    """The attributes that the run wrote at its end; what it did not live to write comes from the tables.

    Beside KEYS it has "settings", what the run is a function of (settings.py), "fault_counts", the rows of /faults by
    kind, "fault_clients", of each kind those by client, most first, "energy_notes", why energy was not measured, and
    "notes", what is wrong with the file: none of them is part of what `--json` prints.
    """
    aim = target or Target.of(trace)
    steps = trace.table("steps")
    at = aim.first(steps)
    task = trace.experiment.get("task", {})
    values: dict[str, Any] = {"dataset": task.get("dataset"), "model": task.get("model")}
    values |= _from_tables(trace, steps) | trace.attributes
    values |= {"run": str(trace.path), "x_digest": trace.digest("x") or None, "target": str(aim) or None}
    own = trace.attributes.get("uploads_to_target", -1) if target is None else -1
    if at is not None:
        values["uploads_to_target"] = _counted(trace, steps[at])
    else:
        values["uploads_to_target"] = own if own >= 0 else None
    values |= _from_updates(trace, steps, None if at is None else int(steps["uploads"][at]))
    values |= _totals(values, _sent_down(trace, steps, -1) if len(steps) else None) | _memory(trace)
    if at is not None:
        values |= _to_target(values, steps[at], _sent_down(trace, steps, at))
    elif values["uploads_to_target"] is not None:  # the evaluation after the last step found it
        values |= {key: values.get(_AT_END[key]) for key in _AT_END}
        if values.get("driver") == "virtual":
            values["seconds_to_target"] = values.get("virtual_seconds")
    if not _broadcasts(trace):  # clients do download
        values |= {key: values.get(key.replace("_unicast", "_down")) for key in KEYS if "_unicast" in key}
    counts = _fault_counts(trace)
    values["faults"] = None if counts is None else sum(counts.values())
    values |= energy(trace.attributes, values.get("uploads"))
    found = {key: plain(values.get(key)) for key in KEYS}
    beside = {"settings": settings(trace.experiment, found), "fault_counts": counts or {}}
    beside["fault_clients"] = _fault_clients(trace) if counts else {}
    beside["energy_notes"] = energy_notes(trace.attributes)
    return found | beside | {"notes": trace.notes}


def _counted(trace: Trace, step: np.ndarray) -> int:
    """Uploads until that row of /steps: those received, or K a step where the experiment counts like the authors."""
    if trace.experiment.get("evaluation", {}).get("target_uploads") == "steps":
        return int(step["version"]) * int(trace.attributes["buffer_size"])
    return int(step["uploads"])


def _from_tables(trace: Trace, steps: np.ndarray) -> dict[str, Any]:
    """What the tables say of a run that ended without its totals."""
    if "uploads" in trace.attributes or len(steps) == 0:
        return {}
    last = steps[-1]
    evaluated = steps[~np.isnan(steps["loss"])]
    uploads = max(int(last["uploads"]), trace.rows("updates"))
    virtual = trace.attributes.get("driver") == "virtual"
    found: dict[str, Any] = {
        "uploads": uploads,
        "server_steps": int(last["version"]),
        "payload_bytes_up": int(last["payload_bytes_up"]),
        "payload_bytes_down": int(last["payload_bytes_down"]),
        "wire_bytes_up": int(last["payload_bytes_up"]) + HEADER_BYTES * int(last["uploads"]),
        "virtual_seconds" if virtual else "seconds": float(last["time_s"]),
    }
    if (sent := _sent_down(trace, steps, -1)) is not None:
        found["wire_bytes_down"] = found["payload_bytes_down"] + HEADER_BYTES * sent
    if len(evaluated):
        found |= {name: float(evaluated[name][-1]) for name in ("accuracy", "loss", "bits_per_byte")}
    return found


def _broadcasts(trace: Trace) -> bool:
    return trace.experiment.get("downlink", {}).get("delivery", "broadcast") == "broadcast"


def messages_down(trace: Trace, steps: np.ndarray) -> np.ndarray:
    """Until each row of /steps, broadcasts or downloads; −1 where an older trace does not say."""
    if _broadcasts(trace):
        older = steps["version"]
    else:  # without entropy coding all have one size
        each = trace.attributes.get("payload_bytes_per_broadcast") or math.inf
        count, rest = np.divmod(steps["payload_bytes_down"], each)
        older = np.where(rest == 0, count, -1)
    return np.where(steps["messages_down"] >= 0, steps["messages_down"], older).astype(np.int64)


def _sent_down(trace: Trace, steps: np.ndarray, at: int) -> int | None:
    """As messages_down has it, of one row; None where it is not known."""
    found = int(messages_down(trace, steps[[at]])[0])
    return found if found >= 0 else None


def _from_updates(trace: Trace, steps: np.ndarray, received: int | None) -> dict[str, Any]:
    """Staleness, and the downlink by unicast, in one pass over /updates. received: of them until the target."""
    unicast = Unicast.of(trace, steps)
    total = count = largest = 0
    boundary = received or 0
    found: dict[str, Any] = unicast.totals("_to_target") if received == 0 else {}
    for block in map(taken, trace.blocks("updates")):
        total += int(block["staleness"].sum())
        largest = max(largest, int(block["staleness"].max(initial=0)))
        crossed = count < boundary <= count + len(block)
        for part in np.split(block, [boundary - count]) if crossed else [block]:
            unicast.add(part)
            count += len(part)
            if count == boundary and len(part):
                found |= unicast.totals("_to_target")
    if count:
        found |= {"mean_staleness": total / count, "max_staleness": largest}
    return found | unicast.totals()


def _memory(trace: Trace) -> dict[str, int]:
    """Rank 0's resident memory: the most that was seen, and how much more its last third has than the middle one.

    Medians of either; the first third is left out, in which buffers and caches fill.
    """
    try:
        resident = trace.table("memory")["resident_bytes"]
    except TraceError:  # of an older version
        return {}
    if not len(resident):
        return {}
    found = {"rank_0_memory_bytes": int(resident.max())}
    third = len(resident) // 3
    if third:
        middle, last = np.median(resident[third:-third]), np.median(resident[-third:])
        found["rank_0_memory_growth_bytes"] = int(last - middle)
    return found


def _fault_counts(trace: Trace) -> dict[str, int] | None:
    """Rows of /faults by the name of their kind; None where the trace is older than that table."""
    try:
        kinds = trace.table("faults")["kind"]
    except TraceError:
        return None
    numbers, counts = np.unique(kinds, return_counts=True)
    names = (FAULT_NAMES.get(number, f"kind {number}") for number in numbers.tolist())
    return dict(zip(names, counts.tolist(), strict=True))


def _fault_clients(trace: Trace) -> dict[str, dict[int, int]]:
    """Rows of /faults that name a client, by kind and client."""
    faults = trace.table("faults")
    found = {}
    for number in np.unique(faults["kind"]).tolist():
        clients = faults["client"][(faults["kind"] == number) & (faults["client"] >= 0)]
        names, counts = np.unique(clients, return_counts=True)
        most = np.argsort(-counts, kind="stable")
        by_client = dict(zip(names[most].tolist(), counts[most].tolist(), strict=True))
        found[FAULT_NAMES.get(number, f"kind {number}")] = by_client
    return found


def _totals(values: dict[str, Any], sent_down: int | None) -> dict[str, Any]:
    """The paper's formula for the totals of a run that did not live to write them."""
    found: dict[str, Any] = {}
    up, down = values.get("paper_bytes_per_upload"), values.get("paper_bytes_per_broadcast")
    if up is not None and values.get("uploads") is not None:
        found["paper_bytes_up"] = values.get("paper_bytes_up", up * values["uploads"])
    if down is not None and sent_down is not None:
        found["paper_bytes_down"] = values.get("paper_bytes_down", down * sent_down)
    return found


def _to_target(values: dict[str, Any], step: np.ndarray, sent_down: int | None) -> dict[str, Any]:
    """The cost until the first evaluation at the target. step: that row of /steps; sent_down: messages until then."""
    uploads, versions = int(step["uploads"]), int(step["version"])
    payload_up, payload_down = int(step["payload_bytes_up"]), int(step["payload_bytes_down"])
    found = {
        "steps_to_target": versions,
        "seconds_to_target": float(step["time_s"]),
        "payload_bytes_up_to_target": payload_up,
        "payload_bytes_down_to_target": payload_down,
        "wire_bytes_up_to_target": payload_up + HEADER_BYTES * uploads,
    }
    if (up := values.get("paper_bytes_per_upload")) is not None:
        found["paper_bytes_up_to_target"] = up * uploads
    if sent_down is not None:
        found["wire_bytes_down_to_target"] = payload_down + HEADER_BYTES * sent_down
        if (down := values.get("paper_bytes_per_broadcast")) is not None:
            found["paper_bytes_down_to_target"] = down * sent_down
    return found


def plain(value: Any) -> Any:
    """As JSON can say it: not measured is null, there is no NaN."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def public(run: dict[str, Any]) -> dict[str, Any]:
    """A row as `--json` prints it."""
    return {key: run[key] for key in KEYS}
