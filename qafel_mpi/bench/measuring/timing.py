"""Samples of an operation's time: warm-ups kept apart, ours and a reference in turns, a stop at a target width.

After Hoefler and Belli, "Scientific benchmarking of parallel computing systems" (SC 2015): medians with
nonparametric intervals, all values kept, and as many of them as the interval needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from time import perf_counter

import numpy as np

Case = Callable[[], float]  # one sample: seconds an operation
Agree = Callable[[int], int]  # rank 0's number on every rank; collective
Interval = tuple[float, float]

FIRST_BATCH = 10  # rounds before the width is looked at
CONFIDENCE = 0.95
Z = 1.959964  # of CONFIDENCE


@dataclass(frozen=True)
class Limits:
    """How long to measure one case against its reference."""

    seconds: float = 2.0  # at most, for the case and its reference together, without the warm-up
    width: float = 0.02  # stop when the interval of every median is so narrow, relative to the median
    least: int = 20  # rounds, whatever the width
    most: int = 10_000
    warmups: int = 10  # rounds at most; a tenth of `seconds` at most, but one at least


@dataclass(frozen=True)
class Samples:
    """Seconds an operation, sample by sample in the order taken; each is the mean over `loops` in a row."""

    values: np.ndarray  # (n,) float64
    warmups: np.ndarray  # (w,) float64
    loops: int = 1

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    @property
    def interval(self) -> Interval:
        """95% interval of the median."""
        return median_interval(self.values)

    def quantile(self, q: float) -> float:
        return float(np.quantile(self.values, q))


def median_interval(values: np.ndarray) -> Interval:
    """The 95% interval of the median from order statistics: no assumption on the distribution.

    Below 6 values no such interval exists; the range is returned, which covers with 1 − 2^(1−n).

    >>> median_interval(np.arange(1.0, 11.0))
    (2.0, 9.0)
    """
    ordered = np.sort(values)
    k = _order(len(ordered))
    return float(ordered[k]), float(ordered[len(ordered) - 1 - k])


def _order(n: int) -> int:
    """The largest k, from 0, such that fewer than k + 1 of n values below the median has probability ≤ 2.5%."""
    if n > 100:
        return max(0, math.floor((n - Z * math.sqrt(n)) / 2) - 1)
    below, k = 1, 0  # Σ C(n, i) for i ≤ k
    while (below + math.comb(n, k + 1)) / 2**n <= (1 - CONFIDENCE) / 2:
        k += 1
        below += math.comb(n, k)
    return k


def relative_width(values: np.ndarray) -> float:
    """Width of the median's interval over the median; infinite where there are too few values for one."""
    if len(values) < 6:
        return math.inf
    low, high = median_interval(values)
    middle = float(np.median(values))
    return (high - low) / abs(middle) if middle else math.inf


@dataclass(frozen=True)
class Paired:
    """Ours against a reference that was sampled in turns with it."""

    ratio: float  # reference's time over ours: 1 = as good, above 1 = faster
    ratio_interval: Interval
    extra_s: float  # ours less the reference's, seconds an operation
    extra_interval: Interval


def pair(ours: Samples, reference: Samples) -> Paired:
    """Medians over rounds of the ratio and of the difference, with their 95% intervals."""
    ratios = reference.values / ours.values
    extra = ours.values - reference.values
    return Paired(
        float(np.median(ratios)), median_interval(ratios), float(np.median(extra)), median_interval(extra)
    )


def _alone(number: int) -> int:
    return number


def interleave(
    cases: Mapping[str, Case], limits: Limits, *, loops: int = 1, agree: Agree = _alone
) -> dict[str, Samples]:
    """Sample all cases in turns, round by round, so that what disturbs one disturbs all.

    Three and more are shuffled: each follows each other one as often. None ever follows itself, which would find its
    own data in the caches and so have two speeds. Collective where `agree` is: all ranks
    make the same calls, and rank 0's samples decide when it is enough.
    """
    taken: dict[str, list[float]] = {name: [] for name in cases}
    order, shuffle = list(cases), Random(0).shuffle  # the same on every rank

    def rounds(count: int) -> float:
        begun = perf_counter()
        for _ in range(count):
            last = order[-1]
            while len(order) > 2:
                shuffle(order)
                if order[0] != last:
                    break
            for name in order:
                taken[name].append(cases[name]())
        return perf_counter() - begun

    spent = rounds(1)
    left = limits.warmups - 1 if spent <= 0 else min(limits.warmups - 1, int(limits.seconds / 10 / spent))
    rounds(agree(max(0, left)))
    warm = {name: np.array(values) for name, values in taken.items()}
    for values in taken.values():
        values.clear()

    done, spent, batch = 0, 0.0, min(FIRST_BATCH, limits.least)
    while batch := agree(batch):
        spent += rounds(batch)
        done += batch
        batch = _next_batch(taken, done, spent, limits)
    return {name: Samples(np.array(taken[name]), warm[name], loops) for name in cases}


def _next_batch(taken: Mapping[str, list[float]], done: int, spent: float, limits: Limits) -> int:
    """Rounds to go before the next look; 0: enough."""
    affordable = limits.most if spent <= 0 else int((limits.seconds - spent) * done / spent)
    room = min(limits.most - done, affordable)
    if done < limits.least:
        # Below the least number only a budget that is overdrawn tenfold stops.
        return min(limits.least - done, max(room, 1)) if spent < 10 * limits.seconds else 0
    if room <= 0 or all(relative_width(np.array(values)) <= limits.width for values in taken.values()):
        return 0
    return min(done, room)


def measure(case: Case, limits: Limits, *, loops: int = 1, agree: Agree = _alone) -> Samples:
    """`interleave` with one case."""
    return interleave({"ours": case}, limits, loops=loops, agree=agree)["ours"]


def timed(operation: Callable[[], object], loops: int = 1) -> Case:
    """A case of an operation of this process alone: the mean over `loops` calls in a row."""

    def case() -> float:
        begun = perf_counter()
        for _ in range(loops):
            operation()
        return (perf_counter() - begun) / loops

    return case


def calibrate(operation: Callable[[], object], least_s: float = 100e-6) -> int:
    """Calls in a row that take at least `least_s` together, so that the clock's own cost does not count."""
    operation()
    loops = 1
    while (taken := _undisturbed_s(operation, loops, least_s)) < least_s:
        loops = max(2 * loops, min(1000 * loops, math.ceil(1.2 * loops * least_s / max(taken, 1e-7))))
    return loops


def _undisturbed_s(operation: Callable[[], object], loops: int, least_s: float) -> float:
    """Seconds of `loops` calls; what seems long enough is tried again, for something else may have had the core."""
    taken = loops * timed(operation, loops)()
    return taken if taken < least_s else min(taken, *(loops * timed(operation, loops)() for _ in range(2)))
