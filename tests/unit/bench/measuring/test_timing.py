"""Sampling: the median's interval, when to stop, cases in turns, pairs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from qafel_mpi.bench.measuring import timing
from qafel_mpi.bench.measuring.timing import Limits
from tests.unit.bench.measuring.made import samples


@pytest.mark.parametrize("n", [6, 10, 25, 70, 101, 1000])
def test_the_interval_covers_the_median_in_at_least_95_of_100_cases(n):
    """Skewed values, median ln 2; 4,000 draws with seed 1: a true 95% falls below 94% with probability under 0.2%."""
    draws = np.random.default_rng(1).exponential(size=(4000, n))
    covered = np.mean([low <= math.log(2) <= high for low, high in map(timing.median_interval, draws)])
    assert 0.94 < covered < 0.995


def test_the_interval_is_made_of_the_table_s_order_statistics():
    """Of 10 values the 2nd and 9th, of 20 the 6th and 15th: Conover 1999, table A3 (at least 95%)."""
    assert timing.median_interval(np.arange(1.0, 11)) == (2, 9)
    assert timing.median_interval(np.arange(1.0, 21)) == (6, 15)


def test_too_few_values_have_no_width_that_could_stop():
    assert timing.relative_width(np.ones(5)) == math.inf
    assert timing.relative_width(np.ones(6)) == 0


def case(values):
    """A case that returns the values given, and counts."""
    it = iter(values)
    return lambda: next(it)


def test_a_steady_case_stops_early_and_a_noisy_one_goes_to_its_limit():
    limits = Limits(seconds=60, width=0.02, least=20, most=500)
    calm = timing.measure(lambda: 1.0, limits)
    assert len(calm.values) == 20
    rng = np.random.default_rng(0)
    noisy = timing.measure(lambda: float(rng.lognormal(0, 2)), limits)
    assert len(noisy.values) == 500


def test_warmups_are_kept_and_kept_apart():
    numbers = iter(range(1000))
    taken = timing.measure(lambda: float(next(numbers)), Limits(seconds=60, least=20, most=20, warmups=7))
    assert taken.warmups.tolist() == list(range(7))
    assert taken.values.tolist() == list(range(7, 27))


def test_time_is_a_limit_too():
    rng = np.random.default_rng(0)
    timing_s = timing.timed(lambda: sum(range(int(rng.integers(1, 20_000)))))
    taken = timing.measure(timing_s, Limits(seconds=0.1, width=0.0, least=10, most=10**9))
    assert len(taken.values) >= 10
    assert taken.values.sum() < 1.0


@pytest.mark.parametrize("names", ["ab", "abc", "abcd"])
def test_cases_are_taken_in_turns_and_none_follows_itself(names):
    """Of three and more each follows at least two others, in whichever batches the rounds come."""
    order: list[str] = []

    def of(name):
        return lambda: order.append(name) or 1.0

    timing.interleave({n: of(n) for n in names}, Limits(seconds=60, least=25, most=25, warmups=2))
    rounds = [order[i : i + len(names)] for i in range(0, len(order), len(names))]
    assert len(rounds) == 27
    assert all(sorted(found) == list(names) for found in rounds)
    follows = set(itertools.pairwise(order))
    assert all(a != b for a, b in follows)
    assert all(sum(b == name for _, b in follows) >= min(2, len(names) - 1) for name in names)


def test_rank_0_decides_how_many_rounds_there_are():
    """Another rank's samples never settle; it takes what rank 0 says."""
    said = iter([2, 10, 10, 3, 0])
    rng = np.random.default_rng(0)
    taken = timing.measure(
        lambda: float(rng.lognormal(0, 2)), Limits(seconds=60), agree=lambda own: next(said)
    )
    assert (len(taken.warmups), len(taken.values)) == (3, 23)


def test_calibrated_loops_take_long_enough_for_the_clock():
    loops = timing.calibrate(lambda: None, least_s=1e-4)
    assert min(timing.timed(lambda: None, loops)() * loops for _ in range(3)) > 2e-5


def test_a_pair_gives_the_ratio_as_speed_and_the_difference_as_cost():
    paired = timing.pair(samples([2.0, 4.0, 8.0, 2.0, 4.0, 8.0]), samples([1.0, 2.0, 4.0, 1.0, 2.0, 4.0]))
    assert paired.ratio == 0.5  # whatever the machine did meanwhile to both
    assert paired.ratio_interval == (0.5, 0.5)
    assert paired.extra_s == 2.0
