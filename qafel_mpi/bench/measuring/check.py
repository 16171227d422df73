"""Is a result reliable? If not, the reasons, a sentence each, for each of the things that a row claims.

time: the median of our own samples; what `bench compare` holds against another file, and a site's reference.
ratio: the median over rounds of the reference's time over ours, of a row that has a reference.
share: what of a whole, of a row that has one with an interval (overlap's hidden_share): judged by its width.

What disturbs the machine for longer than a round disturbs both series, which are taken in turns: such a time
is off and drifts, the ratio beside it holds. So each is judged by its own series. Both are medians, and their
precision is their interval (Hoefler and Belli, SC 2015); 10% of width, about ±5%, is our choice. A tail of slow
samples, which a shared machine always has, hardly moves a median: far outliers are kept, and count against it
only where without them it would be another; mean, maximum and p99 show them in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Samples, median_interval, relative_width

CLOCK_COST_S = 0.1e-6  # of two readings of the clock
CLOCK_SHARE = 0.01  # of a sample that the clock may cost
CLOCK_ERROR = (
    0.05  # of the median that the error between two hosts' clocks may be: a systematic one, in all samples
)
LEAST_SAMPLES = 10
WIDEST = 0.10  # of the median's interval, relative to the median
MOVED = WIDEST / 2  # how far outliers may move the median, relative to it
TWO_MODES = (
    0.85  # share of the variance that a split in two explains; a uniform distribution has 0.75, a normal 0.64
)
DRIFT = 0.10  # between the medians of the first and last third


class Doubt(NamedTuple):
    """Why a claim of a row is not reliable."""

    claim: str  # "time", "ratio", "share"; "content" speaks against all
    reason: str


def claims(row: Row) -> list[str]:
    made = {"time": True, "ratio": row.reference is not None, "share": bool(_shares(row))}
    return [claim for claim, is_made in made.items() if is_made]


def _shares(row: Row) -> dict[str, list[float]]:
    """Shares with an interval -> that."""
    found = {name.removesuffix("_ci95"): value for name, value in row.derived.items()}
    return {n: v for n, v in found.items() if n.endswith("_share") and isinstance(v, list)}


def doubts(row: Row) -> list[Doubt]:
    """[] where nothing speaks against the row."""
    if row.wrong:
        return [Doubt("content", f"{row.wrong} wrong: it was not what it should be")]
    own = _too_short(row.ours) + _unsteady(row.ours.values, _microseconds) + _clocks(row, row.ours)
    found = [Doubt("time", reason) for reason in own]
    for name, (low, high) in _shares(row).items():
        if high - low > WIDEST:
            found.append(Doubt("share", f"{name}: its 95% interval is wide, {low:.0%} to {high:.0%}"))
    if row.reference is None:
        return found
    ratios = row.reference.values / row.ours.values
    for name, samples in (("", row.ours), ("reference: ", row.reference)):
        found += [Doubt("ratio", name + reason) for reason in _too_short(samples) + _clocks(row, samples)]
    return found + [Doubt("ratio", reason) for reason in _unsteady(ratios, lambda ratio: f"{ratio:.3g}")]


def doubted(row: Row, claim: str) -> bool:
    return any(doubt.claim in (claim, "content") for doubt in doubts(row))


def summary(rows: Sequence[Row]) -> str:
    """ "18 of 18 ratios and 12 of 20 times are reliable"."""
    parts = []
    for claim in ("share", "ratio", "time"):
        made = [row for row in rows if claim in claims(row)]
        if made:
            reliable = sum(not doubted(row, claim) for row in made)
            parts.append(f"{reliable} of {len(made)} {claim}s")
    *most, last = parts or ["no rows"]
    return f"{', '.join(most)}{' and ' if most else ''}{last} are reliable"


def _microseconds(seconds: float) -> str:
    return f"{1e6 * seconds:.3g} µs"


def _too_short(samples: Samples) -> list[str]:
    taken_s = samples.median * samples.loops
    if taken_s * CLOCK_SHARE >= CLOCK_COST_S:
        return []
    return [f"too short: a sample takes {1e6 * taken_s:.2g} µs, of which the clock is over 1%"]


def _clocks(row: Row, samples: Samples) -> list[str]:
    """Where a sample begins on one host and ends on another."""
    error_us = row.derived.get("clock_error_us", 0.0)
    error_s = 1e-6 * error_us if isinstance(error_us, float) else 0.0
    if error_s <= CLOCK_ERROR * samples.median:
        return []
    return [
        f"clocks: between hosts they may be wrong by {_microseconds(error_s)}, "
        f"{error_s / samples.median:.0%} of the median"
    ]


def _unsteady(values: np.ndarray, show: Callable[[float], str]) -> list[str]:
    """What speaks against the median of a series."""
    if len(values) < LEAST_SAMPLES:
        return [f"too few: {len(values)} samples, at least {LEAST_SAMPLES}"]
    found = []
    width = relative_width(values)
    if width > WIDEST:
        found.append(f"spread: the 95% interval of the median is {width:.0%} of it wide")
    far = outliers(values)
    moved = float(np.median(values) / np.median(values[~far])) - 1
    if abs(moved) > MOVED:
        found.append(
            f"outliers: {far.mean():.0%} of the samples lie far out and move the median by {moved:+.0%}"
        )
    if modes := two_modes(values):
        found.append(f"bimodal: samples lie about {show(modes[0])} and about {show(modes[1])}")
    if drift := drifts(values):
        found.append(f"drift: the last third is {drift:+.0%} from the first")
    return found


def outliers(values: np.ndarray) -> np.ndarray:
    """Which lie beyond Tukey's outer fences: three interquartile ranges from the quartiles."""
    q1, q3 = np.quantile(values, [0.25, 0.75])
    fence = 3 * max(q3 - q1, 0.01 * abs(q3))  # a clock's ticks can make the range zero
    return (values < q1 - fence) | (values > q3 + fence)


def two_modes(values: np.ndarray) -> tuple[float, float] | None:
    """Where two modes lie: medians of both sides, each with a fifth of the samples and 10% apart, where
    splitting them explains nearly all the variance (Otsu's criterion), without the highest and lowest 2.5%."""
    ordered = np.sort(values)
    trim = len(ordered) // 40
    ordered = ordered[trim : len(ordered) - trim]
    n = len(ordered)
    total = ordered.var()
    if n < 20 or total == 0:
        return None
    left = np.arange(1, n)
    sums = np.cumsum(ordered)[:-1]
    mean_left, mean_right = sums / left, (ordered.sum() - sums) / (n - left)
    explained = left * (n - left) / n**2 * (mean_right - mean_left) ** 2 / total
    split = int(np.argmax(explained)) + 1
    low, high = float(np.median(ordered[:split])), float(np.median(ordered[split:]))
    parted = min(split, n - split) >= n / 5 and high > 1.1 * low
    return (low, high) if parted and explained[split - 1] > TWO_MODES else None


def drifts(values: np.ndarray) -> float:
    """How far the median of the last third is from the first's, relative to it; 0 where that may be chance."""
    third = len(values) // 3
    if third < 10:
        return 0.0
    first, last = values[:third], values[-third:]
    (low1, high1), (low2, high2) = median_interval(first), median_interval(last)
    change = float(np.median(last) / np.median(first)) - 1
    return change if (low2 > high1 or high2 < low1) and abs(change) > DRIFT else 0.0
