"""Runs as rows: what each cost and what it reached."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from qafel_mpi.trace.reader import Trace, open_trace

# The contract of `table --json`; an object has at least these keys, in this order.
KEYS = (
    "run",
    "algorithm",
    "seed",
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
    "uploads_to_target",
    "accuracy",
    "loss",
    "payload_bytes_up",
    "payload_bytes_down",
    "wire_bytes_up",
    "wire_bytes_down",
    "down_links",
    "paper_bytes_per_upload",
    "paper_bytes_per_broadcast",
    "paper_bytes_up",
    "paper_bytes_down",
    "mean_staleness",
    "seconds",
    "virtual_seconds",
    "x_digest",
    "outcome",
)


def row(path: Path) -> dict[str, Any]:
    """One run as an object with KEYS; null where the trace does not say. Raises TraceError."""
    with open_trace(path) as trace:
        return row_of(trace)


def row_of(trace: Trace) -> dict[str, Any]:
    """The attributes that the run wrote at its end; what it did not live to write comes from the tables."""
    attributes = _from_tables(trace) | trace.attributes
    attributes["run"] = str(trace.path)
    attributes["x_digest"] = trace.digest("x") or None
    attributes["mean_staleness"] = mean_staleness(trace)
    values = {key: _plain(attributes.get(key)) for key in KEYS}
    if values["uploads_to_target"] is not None and values["uploads_to_target"] < 0:
        values["uploads_to_target"] = None
    return values


def rows(paths: Iterable[Path]) -> list[dict[str, Any]]:
    return [row(path) for path in paths]


def mean_staleness(trace: Trace) -> float | None:
    """Mean τ over the updates, in server steps."""
    total = count = 0
    for block in trace.blocks("updates", ["staleness"]):
        values = block["staleness"] if block.dtype.names else block
        total += int(values.sum())
        count += len(values)
    return total / count if count else None


def _from_tables(trace: Trace) -> dict[str, Any]:
    """What /steps and the experiment say of a run that ended without its totals."""
    if "uploads" in trace.attributes or trace.rows("steps") == 0:
        return {}
    steps = trace.table("steps")
    last = steps[-1]
    evaluated = steps[~np.isnan(steps["loss"])]
    found: dict[str, Any] = {
        "uploads": max(int(last["uploads"]), trace.rows("updates")),
        "server_steps": int(last["version"]),
        "uploads_to_target": uploads_to_target(trace, evaluated),
        "payload_bytes_up": int(last["payload_bytes_up"]),
        "payload_bytes_down": int(last["payload_bytes_down"]),
        "seconds": float(last["time_s"]),
    }
    if len(evaluated):
        found |= {"accuracy": float(evaluated["accuracy"][-1]), "loss": float(evaluated["loss"][-1])}
    return found


def uploads_to_target(trace: Trace, evaluated: np.ndarray) -> int:
    """Uploads at the first evaluation at or past the experiment's target; -1 if never."""
    stop = trace.experiment.get("stop", {})
    reached = np.zeros(len(evaluated), dtype=bool)
    if (accuracy := stop.get("accuracy")) is not None:
        reached |= evaluated["accuracy"] >= accuracy
    if (loss := stop.get("loss")) is not None:
        reached |= evaluated["loss"] <= loss
    return int(evaluated["uploads"][reached.argmax()]) if reached.any() else -1


def _plain(value: Any) -> Any:
    """JSON has no NaN: not measured is null."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    if numerator is None or not denominator:
        return None
    return numerator / denominator
