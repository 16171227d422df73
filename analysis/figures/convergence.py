"""Curves of a run, and their median and spread over the seeds of a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from qafel_analysis.figures.axes import AGAINST
from qafel_analysis.read.rows import messages_down, plain
from qafel_analysis.tables.compare import Group, ended
from qafel_analysis.tables.grid import Grid, number

from qafel_mpi.trace.reader import Trace, open_trace
from qafel_mpi.trace_schema import HEADER_BYTES

POINTS = 200  # of a curve that is drawn


def curve(trace: Trace) -> pd.DataFrame:
    """The evaluated steps of a run: the columns of AGAINST, and accuracy, loss, gap, gradient_norm_squared."""
    steps = trace.table("steps")
    steps = steps[~np.isnan(steps["loss"]) | ~np.isnan(steps["accuracy"])]
    return _frame(trace, steps)


def gaps(trace: Trace) -> pd.DataFrame:
    """All steps, thinned to POINTS evenly spaced ones: gap, step norm and error of the downlink's quantizer."""
    steps = trace.table("steps")
    return _frame(trace, steps[_evenly(len(steps), POINTS)])


def _evenly(count: int, points: int) -> np.ndarray:
    """At most so many indices of 0 .. count - 1, with the first and the last."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, points)).astype(int))


def _frame(trace: Trace, steps: np.ndarray) -> pd.DataFrame:
    up = steps["payload_bytes_up"] + HEADER_BYTES * steps["uploads"]
    messages = messages_down(trace, steps)
    down = np.where(messages < 0, np.nan, steps["payload_bytes_down"] + HEADER_BYTES * messages)
    return pd.DataFrame(
        {
            "uploads": steps["uploads"],
            "server_steps": steps["version"],
            "payload_bytes_up": steps["payload_bytes_up"],
            "payload_bytes": steps["payload_bytes_up"] + steps["payload_bytes_down"],
            "wire_bytes_up": up,
            "wire_bytes": up + down,
            "seconds": steps["time_s"],
            "accuracy": steps["accuracy"],
            "loss": steps["loss"],
            "gap": steps["gap"],
            "step_norm": steps["step_norm"],
            "difference_norm": steps["difference_norm"],
            "quantization_error": steps["quantization_error"],
            "gradient_norm_squared": steps["gradient_norm_squared"],
        }
    )


@dataclass(frozen=True)
class Band:
    """A quantity over the seeds of a setting: median, smallest and largest at each x.

    A run that has ended, because it reached its target, keeps its last value; one that was cut short does not. The
    band ends where half of the runs have ended.
    """

    label: str
    x: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int


def band(group: Group, curves: Sequence[pd.DataFrame], x: str, y: str) -> Band | None:
    """Of the curves of a setting's runs, in their order. None where no run has the quantity."""
    own = [c[np.isfinite(c[y])][[x, y]].sort_values(x) for c in curves]  # a loss may be infinite
    found = [(c, ended(run)) for c, run in zip(own, group.runs, strict=True) if len(c)]
    if not found:
        return None
    if len(found) == 1:  # a single run is drawn as it is
        only = thin(found[0][0])
        values = only[y].to_numpy(dtype=float)
        return Band(group.label, only[x].to_numpy(dtype=float), values, values, values, 1)
    begin = min(c[x].iloc[0] for c, _ in found)
    end = float(np.median([c[x].iloc[-1] for c, _ in found]))
    grid = np.linspace(begin, end, POINTS)
    values = np.stack([np.interp(grid, c[x], c[y], right=None if whole else np.nan) for c, whole in found])
    with np.errstate(over="ignore"):
        middle, low, high = (of(values, axis=0) for of in (np.nanmedian, np.nanmin, np.nanmax))
    return Band(group.label, grid, middle, low, high, len(found))


def thin(frame: pd.DataFrame, points: int = POINTS) -> pd.DataFrame:
    """At most so many rows, evenly spaced, with the first and the last."""
    return frame.iloc[_evenly(len(frame), points)]


def curves_of(group: Group, y: str) -> list[pd.DataFrame]:
    """Of each run of a setting the steps that have the quantity: of loss and accuracy, the evaluated ones."""
    found = []
    for run in group.runs:
        with open_trace(run["run"], salvage=True) as trace:
            steps = trace.table("steps")
            found.append(_frame(trace, steps[np.isfinite(steps[y])]))
    return found


def as_json(group: Group, x: str, y: str) -> dict[str, Any]:
    """The band of a setting, six digits a number: {setting, algorithm, seeds, x, median, low, high}.

    Null where a number is too large to be one: a median between two that are the largest there are.
    """
    found = band(group, curves_of(group, y), x, y)
    if found is None:
        return _about(group) | {"x": [], "median": [], "low": [], "high": []}
    arrays = {"x": found.x, "median": found.median, "low": found.low, "high": found.high}
    return _about(group) | {
        name: [plain(float(f"{value:.6g}")) for value in array.tolist()] for name, array in arrays.items()
    }


def from_json(content: Mapping[str, Any]) -> Band:
    """A band as as_json wrote it."""
    x, median, low, high = (np.array(content[name], dtype=float) for name in ("x", "median", "low", "high"))
    return Band(content["setting"], x, median, low, high, len(content["seeds"]))


def values_at(group: Group, x: str, y: str, points: Sequence[float]) -> dict[str, Any]:
    """{setting, algorithm, seeds, x, values}: of each seed a list with y at each x.

    Null before its first one, and where the run was cut short, beyond its last.
    """
    values = []
    for run, one in zip(group.runs, curves_of(group, y), strict=True):
        one = one[[x, y]].dropna().sort_values(x)
        end = np.inf if ended(run) or not len(one) else one[x].iloc[-1]
        last = zip(points, one[x].searchsorted(points, side="right") - 1, strict=True)
        values.append([float(one[y].iloc[k]) if k >= 0 and at <= end else None for at, k in last])
    return _about(group) | {"x": list(points), "values": values}


def _about(group: Group) -> dict[str, Any]:
    seeds = [run["seed"] for run in group.runs]
    return {"setting": group.label, "algorithm": group.algorithm, "seeds": seeds}


def curves_grid(found: Sequence[Mapping[str, Any]], x: str, y: str) -> Grid:
    """What as_json or values_at gave of some settings: median, smallest and largest; a tenth of a curve's points."""
    rows = []
    for one in found:
        if "values" in one:
            columns = [[v for v in column if v is not None] for column in zip(*one["values"], strict=True)]
            points = [(median(c), min(c), max(c)) if c else None for c in columns]
            rows += [_row(one, at, point) for at, point in zip(one["x"], points, strict=True)]
        else:
            points = list(zip(one["median"], one["low"], one["high"], strict=True))
            some = _evenly(len(points), 10) if points else ()
            rows += [_row(one, one["x"][k], points[k]) for k in some]
    return Grid(
        "Median, smallest and largest over the runs of a setting",
        ("setting", AGAINST[x], y.replace("_", " "), "smallest", "largest"),
        tuple(rows),
    )


def _row(one: Mapping[str, Any], at: float, point: tuple[float, float, float] | None) -> tuple[str, ...]:
    return one["setting"], number(at), *map(number, point or (None, None, None))


def staleness_counts(trace: Trace) -> np.ndarray:
    """How many updates had τ = 0, 1, 2, …"""
    counts = np.zeros(1, dtype=np.int64)
    most = trace.rows("updates")  # every server step took an update
    for block in trace.blocks("updates", ["staleness"]):
        known = block["staleness"][(block["staleness"] >= 0) & (block["staleness"] <= most)]
        more = np.bincount(known)
        longer, shorter = (counts, more) if len(counts) >= len(more) else (more, counts)
        counts = longer.copy()
        counts[: len(shorter)] += shorter
    return counts
