"""What speaks against a result is named, and nothing speaks against a steady one."""

from __future__ import annotations

import numpy as np
import pytest

from qafel_mpi.bench.measuring import check
from qafel_mpi.bench.measuring.result import Row
from tests.unit.bench.measuring.made import row, samples, steady, uneven


def test_a_steady_result_is_reliable():
    fine = row(steady(), steady(2e-5), wrong=0)
    assert check.doubts(fine) == []
    assert check.summary([fine, row(steady())]) == "1 of 1 ratios and 2 of 2 times are reliable"


@pytest.mark.parametrize(
    ("values", "loops", "word"),
    [
        (steady(n=9), 1000, "too few"),
        (steady(5e-6), 1, "too short"),
        (np.random.default_rng(0).lognormal(-11, 2, 200), 1000, "spread"),
        (np.where(np.arange(200) % 9 < 2, 1e-4, uneven()), 1000, "outliers: 23%"),
        (np.where(np.arange(200) % 3 == 0, steady(1.5e-5), steady()), 1000, "bimodal"),
        (np.concatenate([steady(n=100), steady(1.3e-5, n=100)]), 1000, "drift: the last third is +30%"),
    ],
)
def test_each_defect_has_its_reason(values, loops, word):
    bad = Row("p2p", {}, samples(values, loops))
    assert any(doubt.claim == "time" and doubt.reason.startswith(word) for doubt in check.doubts(bad))
    assert check.summary([bad]) == "0 of 1 times are reliable"


def test_a_tail_that_does_not_move_the_median_does_not_count_against_it():
    assert check.doubts(row(np.where(np.arange(200) % 10 == 3, 1e-4, steady()))) == []


def test_what_disturbs_both_alike_counts_against_the_time_and_not_against_the_ratio():
    load = np.repeat([1.0, 1.4], 100)
    found = check.doubts(row(load * steady(), load * steady(2e-5, seed=1)))
    assert {doubt.claim for doubt in found} == {"time"}


def test_a_ratio_that_drifts_is_unreliable_where_our_time_is_not():
    found = check.doubts(row(steady(), np.repeat([1.0, 1.4], 100) * steady(2e-5, seed=1)))
    assert {doubt.claim for doubt in found} == {"ratio"}
    assert any(doubt.reason.startswith("drift: the last third is +40%") for doubt in found)


def test_a_reference_that_is_too_short_is_named_as_such():
    short = Row("p2p", {}, samples(steady()), samples(steady(1e-6), loops=1))
    assert any(doubt.reason.startswith("reference: too short") for doubt in check.doubts(short))


def test_wrong_content_is_never_reliable():
    wrong = row(steady(), steady(), wrong=3)
    assert check.doubts(wrong)[0].reason.startswith("3 wrong")
    assert check.summary([wrong]) == "0 of 1 ratios and 0 of 1 times are reliable"


@pytest.mark.parametrize("draw", ["normal", "uniform", "exponential", "lognormal"])
def test_one_mode_is_not_called_two(draw):
    """300 values, 200 seeds: no false alarm."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        assert check.two_modes(1e-5 * (3 + getattr(rng, draw)(size=300) / 3)) is None
