"""Seconds per server step and to the target of wall runs, over seeds; the bytes, and what a step's time is spent on.

Where a link is slow, a quantizer's saving in seconds falls short of its saving in bytes by what does not shrink with
the message: training, encoding, decoding, the server step, and waiting for a link that another message has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd
from qafel_analysis.read.rows import plain
from qafel_analysis.read.settings import Settings, alike, comparable, distance, labels, settings
from qafel_analysis.read.traffic import errors_s, latency_quantile
from qafel_analysis.tables.compare import BASELINE, codecs
from qafel_analysis.tables.grid import NOTHING, Grid
from qafel_analysis.theory.scaling import spread
from qafel_analysis.theory.scaling_paper import of_rank_0

from qafel_mpi.trace.reader import Clocks, Trace, TraceError
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
    settings: Settings = field(default_factory=dict)


def pace(trace: Trace) -> Pace:
    """Raises TraceError where the run has no server step or is no wall run."""
    a, steps, updates = trace.attributes, trace.table("steps"), taken(trace.table("updates"))
    if a.get("driver") != "wall" or len(steps) < 2:
        raise TraceError(f"{trace.path}: no server steps in real time")
    uploads = trace.table("messages")
    uploads = uploads[uploads["kind"] == KIND_NUMBERS["update"]]
    down = of_rank_0(trace)
    down = down[(down["end"] == 0) & (down["kind"] == KIND_NUMBERS["broadcast"])]
    sent, received = uploads[uploads["end"] == 0], uploads[uploads["end"] == 1]
    upload, upload_error = _latency(sent, received, trace.clocks)
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
        settings=settings(trace.experiment, a),
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


@dataclass(frozen=True)
class Setting:
    """The runs of one setting. name: the algorithm's, and what tells it from others of that algorithm."""

    name: str
    paces: tuple[Pace, ...]

    @property
    def algorithm(self) -> str:
        return self.paces[0].algorithm

    @property
    def settings(self) -> Settings:
        return self.paces[0].settings

    def values(self, quantity: str) -> list[float]:
        return [getattr(p, quantity) for p in self.paces]

    def by_seed(self, quantity: str) -> dict[int, float]:
        """Where a seed was run more than once, the median."""
        found: dict[int, list[float]] = {}
        for p in self.paces:
            found.setdefault(p.seed, []).append(getattr(p, quantity))
        return {seed: float(np.median(values)) for seed, values in found.items()}


def settings_of(paces: Sequence[Pace]) -> list[Setting]:
    """Runs that differ in nothing but the seed, together; FedBuff's last.

    Settings of one algorithm are told apart by their codecs, and then by other settings.
    """
    members = alike(paces, lambda p: p.settings | {"algorithm": p.algorithm})
    firsts = [own[0] for own in members]
    several = {
        p.algorithm for p in firsts if len({o.codecs for o in firsts if o.algorithm == p.algorithm}) > 1
    }
    words = [f"{p.algorithm}, {p.codecs}" if p.algorithm in several else p.algorithm for p in firsts]
    names = labels(words, [p.settings for p in firsts])
    return sorted(map(Setting, names, members), key=lambda s: (s.algorithm == BASELINE, s.name))


def _baseline_of(setting: Setting, others: Sequence[Setting]) -> Setting | None:
    """FedBuff on the same task and ranks, to the same target, in the setting most like this one's."""
    candidates = [o for o in others if o.algorithm == BASELINE and comparable(o.settings, setting.settings)]
    if setting.algorithm == BASELINE or not candidates:
        return None
    return min(candidates, key=lambda o: distance(o.settings, setting.settings))


def ratios(settings: Sequence[Setting], quantity: str) -> dict[str, tuple[float, float, float]]:
    """FedBuff's value over that of each other setting, seed by seed: as spread() has it."""
    found = {}
    for setting in settings:
        if (baseline := _baseline_of(setting, settings)) is None:
            continue
        ours, theirs = setting.by_seed(quantity), baseline.by_seed(quantity)
        if both := [theirs[seed] / ours[seed] for seed in ours if seed in theirs]:
            found[setting.name] = spread(both)
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


def pace_grid(settings: Sequence[Setting]) -> Grid:
    """A row a quantity, a column a setting, and FedBuff's over the others'."""
    beside = [s.name for s in settings if _baseline_of(s, settings)]
    rows = []
    for one in fields(Pace):
        if one.name not in QUANTITIES:
            continue
        cells = [_cell(spread(s.values(one.name))) for s in settings]
        found = {} if one.name == "upload_error" else ratios(settings, one.name)
        cells += [_cell(found[name]) if name in found else NOTHING for name in beside]
        rows.append((QUANTITIES[one.name], *cells))
    counts = ", ".join(f"{len(s.paces)} of {s.name}" for s in settings)
    headings = ("", *(s.name for s in settings), *(f"{BASELINE} / {name}" for name in beside))
    caption = (
        f"Medians over runs ({counts}) with the smallest and the largest. Upload latency is the time from posting on "
        f"the client to arrival on rank 0, by two clocks; {NOTHING} where it does not exceed their error."
    )
    return Grid(caption, headings, tuple(rows))


def as_json(settings: Sequence[Setting]) -> dict[str, Any]:
    """{runs, algorithms, fedbuff_over}: each run's numbers; median, smallest and largest of each; null: not known.

    The last two by the settings' names, which are the algorithms' where each has one setting.
    """
    names = [one.name for one in fields(Pace) if one.name in QUANTITIES]

    def known(values: tuple[float, float, float]) -> list[float] | None:
        return [float(v) for v in values] if np.isfinite(values[0]) else None

    return {
        "runs": [{"setting": s.name} | _as_object(p) for s in settings for p in s.paces],
        "algorithms": {s.name: {n: known(spread(s.values(n))) for n in names} for s in settings},
        "fedbuff_over": {
            n: {name: known(values) for name, values in ratios(settings, n).items()}
            for n in names
            if n != "upload_error"
        },
    }


def _as_object(pace: Pace) -> dict[str, Any]:
    return {one.name: plain(getattr(pace, one.name)) for one in fields(Pace) if one.name != "settings"}


def _cell(values: tuple[float, float, float]) -> str:
    median, low, high = values
    if not np.isfinite(median):
        return NOTHING
    text = f"{median:,.0f}" if median >= 1000 else f"{median:.3g}"
    if low == high:
        return text
    return f"{text} ({low:.3g} to {high:.3g})"
