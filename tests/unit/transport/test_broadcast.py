"""The binomial tree's shape, and which settings a broadcast can't run with."""

from __future__ import annotations

import math

import pytest

from qafel_mpi.config import ConfigError, load
from qafel_mpi.transport.tree import children, parent

SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 100, 1000, 4097]


@pytest.mark.parametrize("size", SIZES)
def test_every_rank_is_reached_once_from_its_parent(size):
    reached = [child for rank in range(size) for child in children(rank, size)]
    assert sorted(reached) == list(range(1, size))
    assert all(rank in children(parent(rank), size) for rank in range(1, size))


@pytest.mark.parametrize("size", SIZES)
def test_the_tree_takes_as_many_rounds_as_the_logarithm_says(size):
    """One send a rank and round: the last rank hears in round ⌈log₂ n⌉, over at most as many hops."""
    rounds, hops = {0: 0}, {0: 0}
    for rank in range(size):
        for i, child in enumerate(children(rank, size)):
            rounds[child], hops[child] = rounds[rank] + 1 + i, hops[rank] + 1
    assert max(rounds.values()) == math.ceil(math.log2(size))
    assert max(hops.values()) <= math.ceil(math.log2(size))


@pytest.mark.parametrize("dimension", range(6))
def test_the_child_with_the_most_below_it_is_served_first(dimension):
    size = 2**dimension

    def below(rank: int) -> int:
        return 1 + sum(map(below, children(rank, size)))

    assert [below(child) for child in children(0, size)] == [2**i for i in reversed(range(dimension))]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["transport.broadcast=tree", "clock.kind=virtual"], "keep their place among the broadcasts"),
        (["transport.broadcast=ibcast", "clock.kind=virtual"], "keep their place among the broadcasts"),
        (
            ["transport.broadcast=tree", "clock.kind=wall", "algorithm=naive", "downlink.delivery=unicast"],
            "there are no broadcasts",
        ),
        (
            ["transport.broadcast=ibcast", "clock.kind=wall", "downlink.entropy=zstd"],
            "needs the size at every rank",
        ),
        (["transport.broadcast=tre"], "transport.broadcast"),
    ],
)
def test_a_broadcast_that_can_not_work_is_refused_with_the_reason(overrides, reason):
    with pytest.raises(ConfigError, match=reason):
        load("digits", overrides)


def test_the_tree_passes_on_payloads_of_any_size():
    load("digits", ["transport.broadcast=tree", "clock.kind=wall", "downlink.entropy=zstd"])
