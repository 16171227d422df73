"""Seconds per server step and to the target of wall runs, over seeds; the bytes, and what a step's time is spent on.

Where a link is slow, a quantizer's saving in seconds falls short of its saving in bytes by what does not shrink with
the message: training, encoding, decoding, the server step, and waiting for a link that another message has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from qafel_analysis.read.rows import plain
from qafel_analysis.read.traffic import errors_s, latency_quantile
from qafel_analysis.tables.compare import BASELINE, codecs
from qafel_analysis.tables.grid import NOTHING, Grid
from qafel_analysis.theory.scaling import interval
from qafel_analysis.theory.scaling_paper import of_rank_0

from qafel_mpi.trace.reader import Clocks, TraceError, open_trace
from qafel_mpi.trace_schema import HEADER_BYTES, KIND_NUMBERS, taken


@dataclass(frozen=True)
class Pace:
    """One wall run; times in seconds, medians over its messages where they are of one message."""

    algorithm: str
    codecs: str  # up and down, with their bits
    seed: int
    per_step: float  # from version 0 to the last step, over the steps
    to_target: float  # to the last step; nan where the target was not reached
    steps: int
    wire_bytes_up: int  # of one upload
    train: float
    client_encode: float
    upload: (
        float  # from its post on the client to its arrival on rank 0, queueing included; nan if not above:
    )
    upload_error: float  # by how much the clocks may make that wrong; nan where it is unknown
    decode: float  # on rank 0, with the accumulation
    step: float  # a server step with its encoding


def pace(path: Path) -> Pace:
    """Raises TraceError where the run has no server step or is no wall run."""
    with open_trace(path, salvage=True) as trace:
        a, steps, updates = trace.attributes, trace.table("steps"), taken(trace.table("updates"))
        if a.get("driver") != "wall" or len(steps) < 2:
            raise TraceError(f"{path}: no server steps in real time")
        uploads = trace.table("messages")
        uploads = uploads[uploads["kind"] == KIND_NUMBERS["update"]]
        down = of_rank_0(trace)
        down = down[(down["end"] == 0) & (down["kind"] == KIND_NUMBERS["broadcast"])]
        clocks = trace.clocks
    sent, received = uploads[uploads["end"] == 0], uploads[uploads["end"] == 1]
    upload, upload_error = _latency(sent, received, clocks)
    span = float(steps["time_s"][-1] - steps["time_s"][0])
    return Pace(
        algorithm=str(a["algorithm"]),
        codecs=codecs(a),
        seed=int(a["seed"]),
        per_step=span / (len(steps) - 1),
        to_target=span if a["outcome"] == "target reached" else float("nan"),
        steps=len(steps) - 1,
        wire_bytes_up=int(a["payload_bytes_per_upload"]) + HEADER_BYTES,
        train=float(np.median(updates["train_seconds"])),
        client_encode=_median(sent["t_encode_end"] - sent["t_encode_begin"]),
        upload=above(upload, upload_error),
        upload_error=upload_error,
        decode=_median(received["t_decode_end"] - received["t_decode_begin"]),
        step=_median(down["t_encode_end"] - down["t_encode_begin"]),
    )


def _latency(sent: np.ndarray, received: np.ndarray, clocks: Clocks) -> tuple[float, float]:
    """(median seconds from post to arrival of the uploads that have both rows, how wrong the clocks may make it)."""
    key = ["client", "sequence"]
    posts, arrivals = (
        pd.DataFrame(sent[[*key, "src", "t_post"]]),
        pd.DataFrame(received[[*key, "t_complete"]]),
    )
    both = posts.merge(arrivals, on=key)
    error_s = errors_s(clocks, both["src"], both["t_post"])  # rank 0's clock, on which they arrive, has none
    return latency_quantile(both["t_complete"] - both["t_post"], error_s)


def above(seconds: float, error_s: float) -> float:
    """The seconds; nan where they are not above their error, or that is unknown."""
    return seconds if seconds > error_s else float("nan")


def _median(values: np.ndarray) -> float:
    return float(np.nanmedian(values)) if len(values) else float("nan")


def by_name(paces: Sequence[Pace]) -> dict[str, list[Pace]]:
    """The runs of each algorithm; where those of one differ in their codecs, of each pair of codecs."""
    members: dict[str, list[Pace]] = {}
    for p in paces:
        members.setdefault(p.algorithm, []).append(p)
    found: dict[str, list[Pace]] = {}
    for name, own in members.items():
        alike = len({p.codecs for p in own}) == 1
        for p in own:
            found.setdefault(name if alike else f"{name}, {p.codecs}", []).append(p)
    return found


def ratios(paces: Sequence[Pace], field: str) -> dict[str, tuple[float, float, float]]:
    """FedBuff's value over each of the others' (by_name), seed by seed: as interval() has it."""
    named = by_name(paces)
    base = {p.seed: getattr(p, field) for p in named.pop(BASELINE, ())}
    found = {}
    for name, own in named.items():
        values = [base[p.seed] / getattr(p, field) for p in own if p.seed in base]
        if values:
            found[name] = interval(values)
    return found


QUANTITIES = {
    "per_step": "seconds per server step",
    "to_target": "seconds to the target",
    "wire_bytes_up": "bytes of an upload, wire",
    "steps": "server steps",
    "train": "training of one update, s",
    "client_encode": "encoding of an upload, s",
    "upload": "upload latency, queueing included, s",
    "upload_error": "error of the clocks in it, s",
    "decode": "decoding of an upload, s",
    "step": "server step with its encoding, s",
}


def pace_grid(paces: Sequence[Pace]) -> Grid:
    """A row a quantity, a column a name of by_name, and FedBuff's over the others'."""
    named = by_name(paces)
    names = sorted(named, key=lambda name: (name == BASELINE, name))
    others = [name for name in names if name != BASELINE]
    rows = []
    for field in fields(Pace):
        if field.name not in QUANTITIES:
            continue
        cells = [_cell(interval([getattr(p, field.name) for p in named[name]])) for name in names]
        found = {} if field.name == "upload_error" else ratios(paces, field.name)
        cells += [_cell(found[name]) if name in found else NOTHING for name in others if BASELINE in named]
        rows.append((QUANTITIES[field.name], *cells))
    counts = "; ".join(f"{len(named[name])} of {name}" for name in names)
    headings = ("", *names, *(f"{BASELINE} / {name}" for name in others if BASELINE in named))
    caption = (
        f"Medians over runs ({counts}) with bootstrap intervals of 95%. Upload latency is the time from posting on "
        f"the client to arrival on rank 0, by two clocks; {NOTHING} where it does not exceed their error."
    )
    return Grid(caption, headings, tuple(rows))


def as_json(paces: Sequence[Pace]) -> dict[str, Any]:
    """{runs, algorithms, fedbuff_over}: each run's numbers, and medians with their intervals; null: not known.

    The keys of the last two are the names of by_name.
    """
    names = [field.name for field in fields(Pace) if field.name in QUANTITIES]

    def known(values: tuple[float, float, float]) -> list[float] | None:
        return [float(v) for v in values] if np.isfinite(values[0]) else None

    return {
        "runs": [{name: plain(value) for name, value in asdict(p).items()} for p in paces],
        "algorithms": {
            name: {n: known(interval([getattr(p, n) for p in own])) for n in names}
            for name, own in by_name(paces).items()
        },
        "fedbuff_over": {
            n: {a: known(values) for a, values in ratios(paces, n).items()}
            for n in names
            if n != "upload_error"
        },
    }


def _cell(values: tuple[float, float, float]) -> str:
    median, low, high = values
    if not np.isfinite(median):
        return NOTHING
    text = f"{median:,.0f}" if median >= 1000 else f"{median:.3g}"
    if low == high:
        return text
    return f"{text} [{low:.3g}, {high:.3g}]"
