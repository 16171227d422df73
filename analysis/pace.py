"""Seconds per server step and to the target of wall runs, over seeds; the bytes, and what a step's time is spent on.

Where a link is slow, a quantizer's saving in seconds falls short of its saving in bytes by what does not shrink with
the message: training, encoding, decoding, the server step, and waiting for a link that another message has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from qafel_analysis.grid import NOTHING, Grid
from qafel_analysis.scaling import of_rank_0

from qafel_mpi.trace.reader import TraceError, open_trace
from qafel_mpi.trace_schema import HEADER_BYTES, KIND_NUMBERS

RESAMPLES = 10_000


@dataclass(frozen=True)
class Pace:
    """One wall run; times in seconds, medians over its messages where they are of one message."""

    algorithm: str
    seed: int
    per_step: float  # from version 0 to the last step, over the steps
    to_target: float  # to the last step; nan where the target was not reached
    steps: int
    wire_bytes_up: int  # of one upload
    train: float
    client_encode: float
    upload: float  # from its post on the client to its arrival on rank 0, waiting for the link included
    decode: float  # on rank 0, with the accumulation
    step: float  # a server step with its encoding


def pace(path: Path) -> Pace:
    """Raises TraceError where the run has no server step or is no wall run."""
    with open_trace(path, salvage=True) as trace:
        a, steps, updates = trace.attributes, trace.table("steps"), trace.table("updates")
        if a.get("driver") != "wall" or len(steps) < 2:
            raise TraceError(f"{path}: no server steps in real time")
        uploads = trace.table("messages")
        uploads = uploads[uploads["kind"] == KIND_NUMBERS["update"]]
        down = of_rank_0(trace)
        down = down[(down["end"] == 0) & (down["kind"] == KIND_NUMBERS["broadcast"])]
    sent, received = uploads[uploads["end"] == 0], uploads[uploads["end"] == 1]
    span = float(steps["time_s"][-1] - steps["time_s"][0])
    return Pace(
        algorithm=str(a["algorithm"]),
        seed=int(a["seed"]),
        per_step=span / (len(steps) - 1),
        to_target=span if a["outcome"] == "target reached" else float("nan"),
        steps=len(steps) - 1,
        wire_bytes_up=int(a["payload_bytes_per_upload"]) + HEADER_BYTES,
        train=float(np.median(updates["train_seconds"])),
        client_encode=_median(sent["t_encode_end"] - sent["t_encode_begin"]),
        upload=_median(_latencies(sent, received)),
        decode=_median(received["t_decode_end"] - received["t_decode_begin"]),
        step=_median(down["t_encode_end"] - down["t_encode_begin"]),
    )


def _latencies(sent: np.ndarray, received: np.ndarray) -> np.ndarray:
    """Seconds from post to arrival of every upload that has both rows."""
    posted = {(int(row["client"]), int(row["sequence"])): float(row["t_post"]) for row in sent}
    pairs = (
        (posted.get((int(row["client"]), int(row["sequence"]))), float(row["t_complete"])) for row in received
    )
    return np.array([complete - post for post, complete in pairs if post is not None])


def _median(values: np.ndarray) -> float:
    return float(np.nanmedian(values)) if len(values) else float("nan")


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, its bootstrap interval of 95% over the runs); nan where a run did not get there."""
    array = np.array(values)
    drawn = np.random.default_rng(0).choice(array, (RESAMPLES, len(array)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(np.median(array)), float(low), float(high)


def ratios(paces: Sequence[Pace], field: str) -> dict[str, tuple[float, float, float]]:
    """FedBuff's value over each other algorithm's, seed by seed: as interval() has it."""
    base = {p.seed: getattr(p, field) for p in paces if p.algorithm == "fedbuff"}
    found = {}
    for name in dict.fromkeys(p.algorithm for p in paces if p.algorithm != "fedbuff"):
        values = [base[p.seed] / getattr(p, field) for p in paces if p.algorithm == name and p.seed in base]
        if values:
            found[name] = interval(values)
    return found


_ROWS = {
    "per_step": "seconds per server step",
    "to_target": "seconds to the target",
    "wire_bytes_up": "bytes of an upload, wire",
    "steps": "server steps",
    "train": "one training, s",
    "client_encode": "encoding an upload, s",
    "upload": "an upload's way, waiting included, s",
    "decode": "decoding an upload, s",
    "step": "a server step with its encoding, s",
}


def pace_grid(paces: Sequence[Pace]) -> Grid:
    """A row a quantity, a column an algorithm, and FedBuff's over the others'."""
    names = sorted({p.algorithm for p in paces}, key=lambda name: (name == "fedbuff", name))
    others = [name for name in names if name != "fedbuff"]
    rows = []
    for field in fields(Pace):
        if field.name not in _ROWS:
            continue
        cells = [_cell(interval([getattr(p, field.name) for p in paces if p.algorithm == n])) for n in names]
        found = ratios(paces, field.name)
        cells += [_cell(found[name]) if name in found else NOTHING for name in others if "fedbuff" in names]
        rows.append((_ROWS[field.name], *cells))
    counts = ", ".join(f"{sum(p.algorithm == n for p in paces)} of {n}" for n in names)
    headings = ("", *names, *(f"fedbuff / {name}" for name in others if "fedbuff" in names))
    return Grid(f"Medians over runs ({counts}) with bootstrap intervals of 95%.", headings, tuple(rows))


def _cell(values: tuple[float, float, float]) -> str:
    median, low, high = values
    if not np.isfinite(median):
        return NOTHING
    text = f"{median:,.0f}" if median >= 1000 else f"{median:.3g}"
    if low == high:
        return text
    return f"{text} [{low:.3g}, {high:.3g}]"
