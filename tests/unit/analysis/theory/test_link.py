"""Which codecs for a link: seconds, the fastest, and what the seeds leave open."""

import pytest
from qafel_analysis.theory.link import Setting, link_grid, rated, ties


def setting(name: str, uploads: tuple[float, ...], size: float) -> Setting:
    return Setting(name, dict(enumerate(uploads)), size, size, 10)


FEDBUFF = setting("fedbuff, K = 10", (1000, 1100, 1050), 100_000)
FEW_BITS = setting("one bit", (1400, 1600, 1500), 5_000)
LIKE_FEDBUFF = setting("four bits", (990, 1110, 1050), 15_000)


def test_few_bits_win_on_a_slow_link_and_few_uploads_on_a_fast_one():
    slow, fast = (rated([FEDBUFF, FEW_BITS, LIKE_FEDBUFF], mbit, 0.001) for mbit in (1, 1e6))
    assert [one.setting.name for one in slow] == ["one bit", "four bits", "fedbuff, K = 10"]
    assert slow[0].seconds == pytest.approx(1500 * (0.04 + 0.004))
    assert slow[-1].over_best == pytest.approx((13.98, 13.0, 15.0), rel=0.05)
    assert not slow[1].tied
    assert fast[-1].setting is FEW_BITS


def test_what_the_seeds_do_not_tell_from_the_fastest_is_a_tie():
    best, *others = rated([FEDBUFF, FEW_BITS, LIKE_FEDBUFF], 1e6, 0.001)
    assert ties(others) in {"four bits", "fedbuff, K = 10"} - {best.setting.name}
    (row,) = link_grid({1e6: [best, *others]}, 0.001).rows
    assert row[:3] == ("1e+06", best.setting.name, ties(others))


def test_a_single_seed_tells_no_ties():
    once = [setting("a", (1000,), 10), setting("b", (2000,), 10)]
    assert ties(rated(once, 1, 0.001)[1:]) == "not known: one seed"


def test_seeds_that_only_one_of_two_settings_has_are_left_out_of_their_ratio():
    more = setting("more seeds", (2000, 2200, 2100, 9000), 100_000)
    found = rated([FEDBUFF, more], 1, 0.001)
    assert found[1].over_best == pytest.approx((2, 2, 2))
