"""Intervals of 95% over a handful of runs: Student's t, for ratios on their logarithms.

A percentile bootstrap over so few runs is too narrow: of three it covers some 75%, of five 83%. Student's covers 95%
where values (of ratios, their logarithms) are roughly normal. It is wide for two runs, and there is none for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, isnan, log, nan, sqrt
from statistics import fmean, stdev
from typing import NamedTuple

CONFIDENCE = 0.95
POWER = 0.8


class Interval(NamedTuple):
    """A number and its interval. low, high: nan of a single run.

    A run that missed its target took at least what it had spent at its end. A ratio of which no more is known than
    that has one end: high is infinite where the numerator's runs missed it, low is 0 where the denominator's did.
    """

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether it has an interval: more than one run."""
        return not (isnan(self.low) or isnan(self.high))

    @property
    def inverse(self) -> Interval:
        """
        >>> Interval(0.5, 0.0, 0.8).inverse
        Interval(value=2.0, low=1.25, high=inf)
        """
        low, high = (inf if end == 0 else 1 / end for end in (self.high, self.low))
        return Interval(1 / self.value, low, high)

    @property
    def sign(self) -> str:
        """What stands before the value: ≥ or ≤ where it is a bound.

        >>> Interval(2.0, 1.25, inf).sign, Interval(0.5, 0.0, nan).sign, Interval(1.0, 0.9, 1.1).sign
        ('≥ ', '≤ ', '')
        """
        return "≥ " if self.high == inf else "≤ " if self.low == 0 else ""

    @property
    def sign_in_words(self) -> str:
        return {"≥ ": "at least ", "≤ ": "at most ", "": ""}[self.sign]


class Cost(NamedTuple):
    """What one run took. arrived: False where it ended before its target, so that it took at least this."""

    seed: int
    value: float
    arrived: bool = True


def quantile(freedom: float, share: float = (1 + CONFIDENCE) / 2) -> float:
    """Student's t. The default is that of a two-sided interval."""
    from scipy.special import stdtrit  # a fifth of a second, which `--help` does without

    return float(stdtrit(freedom, share))


def mean(values: Sequence[float]) -> Interval:
    """The mean with its interval; all three the same where the values are.

    >>> [round(v, 3) for v in mean([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    middle, runs = fmean(values), len(values)
    if runs < 2:
        return Interval(middle, nan, nan)
    half = quantile(runs - 1) * stdev(values) / sqrt(runs)
    return Interval(middle, middle - half, middle + half)


def times(ours: Sequence[float], theirs: Sequence[float]) -> Interval | None:
    """Ours over theirs in pairs, such as runs of one seed: the geometric mean of the pairs' ratios.

    None where there is no pair, or where a value is 0 or less, which has no logarithm.

    >>> [round(v, 2) for v in times([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])]
    [2.0, 2.0, 2.0]
    """
    pairs = list(zip(ours, theirs, strict=True))
    if not pairs or min(map(min, pairs)) <= 0:
        return None
    return _of_logarithms(mean([log(a / b) for a, b in pairs]))


def apart(ours: Sequence[float], theirs: Sequence[float]) -> Interval | None:
    """Ours over theirs where runs are no pairs: of geometric means, with Welch's interval. None as in times.

    >>> [round(v, 2) for v in apart([2.0, 2.0], [1.0, 1.0])]
    [2.0, 2.0, 2.0]
    """
    if not ours or not theirs or min(*ours, *theirs) <= 0:
        return None
    logs = [[log(value) for value in side] for side in (ours, theirs)]
    middle = fmean(logs[0]) - fmean(logs[1])
    if min(map(len, logs)) < 2:
        return _of_logarithms(Interval(middle, nan, nan))
    parts = [stdev(side) ** 2 / len(side) for side in logs]
    error = sum(parts)
    if not error:
        return _of_logarithms(Interval(middle, middle, middle))
    freedom = error**2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, logs, strict=True))
    half = quantile(freedom) * sqrt(error)
    return _of_logarithms(Interval(middle, middle - half, middle + half))


def one_more(ours: float, theirs: Sequence[float]) -> Interval | None:
    """A single run over the geometric mean of theirs, two or more, with the interval of one more run like theirs.

    None as in times.

    >>> [round(v, 2) for v in one_more(2.0, [1.0, 1.0, 1.0])]
    [2.0, 2.0, 2.0]
    """
    if min(ours, *theirs) <= 0:
        return None
    logs = [log(value) for value in theirs]
    middle, runs = log(ours) - fmean(logs), len(logs)
    half = quantile(runs - 1) * stdev(logs) * sqrt(1 + 1 / runs)
    return _of_logarithms(Interval(middle, middle - half, middle + half))


def _of_logarithms(found: Interval) -> Interval:
    return Interval(*map(exp, found))


def over(ours: Sequence[Cost], theirs: Sequence[Cost]) -> Interval | None:
    """What ours took over what theirs did: pairs of one seed, or apart where they share no seed, or one has it twice.

    Most of what makes runs differ (who trains when, on what) is a function of the seed, and cancels out of a pair; so
    runs of a seed that the other side lacks are left out. None as in times, and where runs of both sides missed their
    target, for then nothing is known.
    """
    pairs = _pairs(ours, theirs)
    if pairs:
        ours, theirs = zip(*pairs, strict=True)
    values = [[cost.value for cost in side] for side in (ours, theirs)]
    found = times(*values) if pairs else apart(*values)
    missed = [not all(cost.arrived for cost in side) for side in (ours, theirs)]
    if found is None or all(missed):
        return None
    return Interval(found.value, 0.0 if missed[1] else found.low, inf if missed[0] else found.high)


def _pairs(ours: Sequence[Cost], theirs: Sequence[Cost]) -> list[tuple[Cost, Cost]]:
    own, other = ({cost.seed: cost for cost in side} for side in (ours, theirs))
    if (len(own), len(other)) != (len(ours), len(theirs)):
        return []
    return [(own[seed], other[seed]) for seed in sorted(own.keys() & other.keys())]


def told(width: float, runs: int) -> float:
    """How far the truth must be from a bound, for an interval of this width over so many runs to tell with POWER.

    Its standard errors: those of the interval's half and those of the power.

    >>> round(told(2 * 1.96, 10**6), 2)
    2.8
    """
    half = quantile(runs - 1)
    return width / 2 * (1 + quantile(runs - 1, POWER) / half)
