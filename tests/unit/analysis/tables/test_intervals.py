"""Intervals cover what they say: of many made-up studies of a few runs, 95% hold the truth."""

from __future__ import annotations

from math import inf, isnan, sqrt

import numpy as np
import pytest
from qafel_analysis.tables.intervals import (
    Cost,
    Interval,
    apart,
    mean,
    one_more,
    over,
    quantile,
    times,
    told,
)

STUDIES = 4000
TRUTH = 0.8
SPREAD = 0.1  # of a run's logarithm, beside what its seed has in common with its partner
# A count of STUDIES at 95% has a standard deviation of 0.34 points: outside 93 to 97% lie six of them, and a test
# that should pass fails with a probability below 1e-8. Seeds are fixed besides.
COVERED = (0.93, 0.97)


def covered(intervals: list[Interval | None], truth: float) -> float:
    return float(np.mean([found is not None and found.low <= truth <= found.high for found in intervals]))


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_the_ratio_of_pairs_is_covered(runs):
    generator = np.random.default_rng(20230800 + runs)
    shared, own, other = (generator.normal(0, s, (STUDIES, runs)) for s in (0.5, SPREAD, SPREAD))
    ours, theirs = TRUTH * np.exp(shared + own), np.exp(shared + other)
    found = [times(a.tolist(), b.tolist()) for a, b in zip(ours, theirs, strict=True)]
    assert COVERED[0] <= covered(found, TRUTH) <= COVERED[1]


def test_a_percentile_bootstrap_of_three_pairs_would_not_be():
    """What these intervals replace: this test says why."""
    generator = np.random.default_rng(3)
    ratios = TRUTH * np.exp(generator.normal(0, sqrt(2) * SPREAD, (STUDIES, 3)))
    every = np.array(np.meshgrid(*[range(3)] * 3)).reshape(3, -1).T  # all 27 samples
    low, high = np.quantile(ratios[:, every].mean(axis=2), [0.025, 0.975], axis=1)
    assert np.mean((low <= TRUTH) & (high >= TRUTH)) < 0.8


@pytest.mark.parametrize("runs", [(3, 3), (3, 5)])
def test_the_ratio_of_runs_that_are_no_pairs_is_covered(runs):
    """Welch's approximation is on the safe side for so few."""
    generator = np.random.default_rng(20230801)
    sides = [np.exp(generator.normal(0, s, (STUDIES, n))) for s, n in zip((0.1, 0.2), runs, strict=True)]
    found = [apart((TRUTH * a).tolist(), b.tolist()) for a, b in zip(*sides, strict=True)]
    assert COVERED[0] <= covered(found, TRUTH) <= 0.98


def test_one_more_run_lies_in_its_interval():
    generator = np.random.default_rng(20230802)
    runs = np.exp(generator.normal(0, 0.2, (STUDIES, 4)))
    found = [one_more(run[0], run[1:].tolist()) for run in runs]
    assert COVERED[0] <= covered(found, 1.0) <= COVERED[1]


def test_an_interval_is_wider_for_fewer_runs_and_for_more_spread():
    def width(values: list[float]) -> float:
        _, low, high = mean(values)
        return high - low

    assert width([1.0, 2.0]) > width([1.0, 2.0, 1.0, 2.0])
    assert width([1.0, 3.0]) > width([1.0, 2.0])
    assert isnan(mean([1.0]).low)


def test_pairs_are_of_the_seeds_that_both_have():
    ours, theirs = [Cost(0, 2.0), Cost(1, 4.0), Cost(7, 900.0)], [Cost(1, 2.0), Cost(0, 1.0), Cost(2, 5.0)]
    assert over(ours, theirs) == pytest.approx((2, 2, 2))
    assert over(ours[:1], theirs[2:]) is not None
    twice = over([Cost(0, 2.0), Cost(0, 4.0)], theirs)
    assert twice == apart([2.0, 4.0], [2.0, 1.0, 5.0]), "a seed of two runs has no partner"
    assert over([], theirs) is None


def test_a_run_that_missed_its_target_leaves_one_end_open():
    ours, theirs = [Cost(s, 4.0) for s in range(3)], [Cost(s, 1.0) for s in range(3)]
    missed = [*ours[:2], Cost(2, 4.0, arrived=False)]
    assert over(missed, theirs) == pytest.approx((4, 4, inf))
    assert over(theirs, missed) == pytest.approx((0.25, 0, 0.25))
    assert over(missed, [*theirs[:2], Cost(2, 1.0, arrived=False)]) is None
    alone = over(missed[2:], theirs)
    assert alone is not None
    assert (alone.sign, alone.known) == ("≥ ", False)


def test_what_is_told_is_told_with_its_power():
    """Truths so far from a bound of 0 that four studies in five are wholly above it."""
    generator = np.random.default_rng(20230803)
    runs = 5
    far = told(2 * quantile(runs - 1) / sqrt(runs), runs)  # the width of runs with a deviation of 1
    values = far + generator.normal(0, 1, (STUDIES, runs))
    assert np.mean([mean(one.tolist()).low > 0 for one in values]) == pytest.approx(0.8, abs=0.06)


def test_zero_has_no_logarithm_and_nothing_has_no_mean():
    assert times([1.0, 0.0], [1.0, 1.0]) is None
    assert times([], []) is None
    assert apart([1.0], [0.0, 1.0]) is None
    assert one_more(0.0, [1.0, 1.0]) is None
