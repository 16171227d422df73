"""Who has the least to do, beside a search over all."""

import random

import pytest

from qafel_mpi.drivers.virtual.outstanding import Outstanding


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8, 21])
def test_the_least_is_the_lowest_rank_of_those_with_the_fewest_trainings_whatever_comes_and_goes(ranks):
    draw, outstanding = random.Random(ranks), Outstanding(range(1, ranks + 1))
    expected = dict.fromkeys(range(1, ranks + 1), 0)
    for _ in range(400):
        rank = draw.choice([*expected])
        if draw.random() < 0.01 and len(expected) > 1:
            assert outstanding.pop(rank) == expected.pop(rank)
        else:
            change = draw.choice([1, 3]) if draw.random() < 0.5 else -min(1, expected[rank])
            outstanding[rank] += change
            expected[rank] += change
        assert outstanding.least == min(expected, key=expected.__getitem__)
        assert dict(outstanding) == expected


def test_a_rank_that_has_left_is_none_of_them():
    outstanding = Outstanding([1, 2])
    del outstanding[1]
    assert (outstanding.ranks, outstanding.least, 1 in outstanding) == ([2], 2, False)
    with pytest.raises(KeyError):
        outstanding[1] += 1
