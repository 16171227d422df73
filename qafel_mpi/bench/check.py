"""Is a result to be believed? Reasons why not, a sentence each."""

from __future__ import annotations

import numpy as np

from qafel_mpi.bench.result import Row
from qafel_mpi.bench.timing import Samples, median_interval, relative_width

CLOCK_COST_S = 0.1e-6  # of two readings of the clock
CLOCK_SHARE = 0.01  # of a sample that the clock may cost
LEAST_SAMPLES = 10
WIDEST = 0.10  # of the median's interval, relative to the median
OUTLIERS = 0.05  # share of the samples that may lie far out
TWO_MODES = (
    0.85  # share of the variance that a split in two explains; a uniform distribution has 0.75, a normal 0.64
)
DRIFT = 0.10  # between the medians of the first and last third


def reasons(row: Row) -> list[str]:
    """Why the row is not to be believed; [] where nothing speaks against it."""
    found = [f"{row.wrong} wrong: the content was not what it should be"] if row.wrong else []
    found += _of_series(row.ours)
    if row.reference is not None:
        found += [f"reference: {reason}" for reason in _of_series(row.reference)]
    return found


def _of_series(samples: Samples) -> list[str]:
    values = samples.values
    if len(values) < LEAST_SAMPLES:
        return [f"too few: {len(values)} samples, at least {LEAST_SAMPLES}"]
    found = []
    taken_s = samples.median * samples.loops
    if taken_s * CLOCK_SHARE < CLOCK_COST_S:
        found.append(f"too short: a sample takes {1e6 * taken_s:.2g} µs, of which the clock is over 1%")
    width = relative_width(values)
    if width > WIDEST:
        found.append(f"spread: the 95% interval of the median is {width:.0%} of it wide")
    share = outliers(values)
    if share > OUTLIERS:
        found.append(f"outliers: {share:.0%} of the samples lie far out")
    if modes := two_modes(values):
        low, high = modes
        found.append(f"bimodal: samples lie about {1e6 * low:.3g} and about {1e6 * high:.3g} µs")
    if drift := drifts(values):
        found.append(f"drift: the last third is {drift:+.0%} from the first")
    return found


def outliers(values: np.ndarray) -> float:
    """The share beyond Tukey's outer fences: three interquartile ranges from the quartiles."""
    q1, q3 = np.quantile(values, [0.25, 0.75])
    fence = 3 * max(q3 - q1, 0.01 * abs(q3))  # a clock's ticks can make the range zero
    return float(np.mean((values < q1 - fence) | (values > q3 + fence)))


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
