"""Who hosts which clients on the wall clock, and whom a rank plays next."""

from __future__ import annotations

from collections import Counter
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qafel_mpi.schedule.hosting import Cohort, Hosting, Turns

populations = st.lists(st.integers(1, 1000), min_size=1, max_size=60)


@given(populations, st.data())
@settings(max_examples=60, deadline=None)
def test_every_client_lives_on_one_host_and_every_host_has_one(examples, data):
    hosts = data.draw(st.integers(1, len(examples)))
    hosting = Hosting.balanced(np.array(examples), hosts)
    shares = [hosting.of(host).tolist() for host in range(hosts)]
    assert sorted(sum(shares, [])) == list(range(len(examples)))  # noqa: RUF017 - a few
    assert all(share and share == sorted(share) for share in shares)


@given(populations, st.data())
@settings(max_examples=60, deadline=None)
def test_shares_are_balanced_by_examples(examples, data):
    """Graham's bound against the mean and the largest client, which no division can go below."""
    hosts = data.draw(st.integers(1, len(examples)))
    sizes = np.array(examples)
    hosting = Hosting.balanced(sizes, hosts)
    loads = [sizes[hosting.of(host)].sum() for host in range(hosts)]
    assert max(loads) <= sizes.sum() / hosts + sizes.max() * (1 - 1 / hosts) + 1e-9
    assert max(loads) - min(loads) <= sizes.max()


def test_a_million_clients_are_dealt_to_ten_thousand_hosts_in_no_quadratic_time():
    def seconds(clients: int, hosts: int) -> float:
        sizes = np.random.default_rng(0).integers(1, 100, clients)
        begun = perf_counter()
        hosting = Hosting.balanced(sizes, hosts)
        assert sum(hosting.quotas(hosts)) == hosts == len(hosting)
        return perf_counter() - begun

    seconds(1_000, 10)
    few = min(seconds(20_000, 200) for _ in range(3))
    assert (
        seconds(1_000_000, 10_000) < 50 * 10 * few
    )  # 50 times as many clients; quadratic would be 2,500 times


def test_one_client_a_rank_is_the_rank_s_own():
    hosting = Hosting.one_each(4)
    assert [hosting.of(host).tolist() for host in range(4)] == [[0], [1], [2], [3]]
    assert hosting.quotas(2) == [1, 1, 1, 1]


def test_fewer_clients_than_hosts_are_refused():
    with pytest.raises(ValueError, match="2 clients for 3 hosts"):
        Hosting.balanced(np.array([5, 5]), 3)


def test_a_round_asks_each_host_for_as_many_clients_as_it_can_give():
    """One host has a giant alone; the others make up for it."""
    hosting = Hosting.balanced(np.array([100, *[1] * 20]), 3)
    assert [len(hosting.of(host)) for host in range(3)] == [1, 10, 10]
    assert hosting.quotas(9) == [1, 4, 4]
    assert hosting.quotas(21) == [1, 10, 10]
    assert hosting.quotas(1) == [1, 1, 1]


def turns(
    draw: str = "uniform", *, clients=range(10, 20), examples=None, seed: int = 0, rank: int = 1
) -> Turns:
    own = np.array(clients, dtype=np.uint32)
    return Turns(
        own, np.ones(len(own)) if examples is None else np.array(examples), draw=draw, seed=seed, rank=rank
    )


def played(one: Turns, count: int) -> list[tuple[int, int]]:
    return [one.next() for _ in range(count)]


@pytest.mark.parametrize("draw", ["uniform", "examples", "permutation"])
def test_turns_are_a_function_of_seed_rank_and_number(draw):
    assert played(turns(draw), 50) == played(turns(draw), 50)
    assert played(turns(draw), 50) != played(turns(draw, seed=1), 50)
    assert played(turns(draw), 50) != played(turns(draw, rank=2), 50)


@pytest.mark.parametrize("draw", ["uniform", "examples", "permutation"])
def test_a_client_s_participations_are_counted_from_0(draw):
    seen: Counter[int] = Counter()
    for client, participation in played(turns(draw), 200):
        assert participation == seen[client]
        seen[client] += 1


def test_uniform_turns_are_uniform():
    """Seed 0; chi-square with 9 degrees of freedom is above 27.9 in one of 1,000 such tests."""
    counts = Counter(client for client, _ in played(turns(), 10_000))
    assert set(counts) == set(range(10, 20))
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 27.9


def test_turns_by_examples_are_in_proportion_to_them():
    """Seed 0; chi-square with 2 degrees of freedom is above 13.8 in one of 1,000 such tests."""
    counts = Counter(c for c, _ in played(turns("examples", clients=[3, 4, 5], examples=[1, 2, 7]), 10_000))
    assert sum((counts[c] - n) ** 2 / n for c, n in ((3, 1000), (4, 2000), (5, 7000))) < 13.8


def test_permuted_turns_play_each_client_once_before_any_plays_again():
    order = [client for client, _ in played(turns("permutation"), 30)]
    passes = [order[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(one) == list(range(10, 20)) for one in passes)
    assert passes[0] != passes[1] != passes[2]


@pytest.mark.parametrize("draw", ["uniform", "examples", "permutation"])
@pytest.mark.parametrize("quota", [1, 3, 10])
def test_a_round_has_different_clients_however_they_are_drawn(draw, quota):
    """Of a share in which one client has almost all examples."""
    one, cohort = turns(draw, examples=[10_000, *[1] * 9]), Cohort(quota)
    for version in range(20):
        complete = False
        while not complete:
            client, _ = one.next(avoid=cohort.clients)
            assert client not in cohort.clients
            complete = cohort.played(client, version)
        assert len(cohort.clients) == quota
        cohort.clients.clear()
    if draw == "permutation":
        assert max(one._participations) - min(one._participations) <= 1


def test_a_new_version_begins_a_new_round():
    cohort = Cohort(2)
    assert not cohort.played(5, 0)
    assert not cohort.played(6, 1)
    assert cohort.played(7, 1)


@given(populations, st.data())
@settings(max_examples=60, deadline=None)
def test_without_a_host_its_clients_live_on_the_others_and_all_else_stays(examples, data):
    hosts = data.draw(st.integers(2, max(2, len(examples))))
    sizes = np.array(examples * 2)
    before = Hosting.balanced(sizes, hosts)
    gone = data.draw(st.integers(0, hosts - 1))
    others = [host for host in range(hosts) if host != gone]
    after = before.without(gone, sizes, others)
    assert after.of(gone).size == 0
    assert sorted(sum((after.of(host).tolist() for host in others), [])) == list(range(len(sizes)))  # noqa: RUF017
    assert all(set(before.of(host).tolist()) <= set(after.of(host).tolist()) for host in others)
    loads = [sizes[after.of(host)].sum() for host in others]
    assert max(loads) - min(loads) <= sizes.max()
    assert sum(after.quotas(len(sizes))) == len(sizes)


@pytest.mark.parametrize("draw", ["uniform", "examples", "permutation"])
def test_clients_that_have_moved_go_on_with_their_participations(draw):
    turns = Turns(np.array([2, 5]), np.array([3, 4]), draw=draw, seed=0, rank=1)
    before = [turns.next() for _ in range(6)]
    turns.adopt(np.array([1, 9]), np.array([7, 0]), lambda client: 10)
    assert turns.clients.tolist() == [1, 2, 5, 9]
    seen = before + [turns.next() for _ in range(40)]
    assert len(set(seen)) == len(seen), "no participation twice"
    assert min(n for client, n in seen if client == 1) == 7
    assert {client for client, _ in seen} == {1, 2, 5, 9}


def test_a_hosts_part_of_a_round_changes_from_a_version_on():
    cohort = Cohort(1)
    assert cohort.played(3, 4)
    cohort.change(2, 5)
    assert cohort.played(4, 4), "the round under way stays as it was"
    assert not cohort.played(3, 5)
    assert cohort.played(4, 5)


def test_of_two_changes_of_a_round_s_part_the_first_holds_until_the_second():
    cohort = Cohort(1)
    cohort.change(3, 4)
    cohort.change(2, 5)
    assert not cohort.begins(3)
    assert cohort.begins(4)
    assert [cohort.played(client, 4) for client in range(3)] == [False, False, True]
    assert [cohort.played(client, 5) for client in range(2)] == [False, True]
    cohort.change(3, 8)
    cohort.change(1, 7)
    assert cohort.played(0, 8), "what was told last holds from its version on"


@pytest.mark.parametrize("examples", [np.ones(7, int), np.arange(1, 8)])
def test_spare_hosts_have_no_clients_and_no_part_of_a_round(examples):
    with_spares, without = Hosting.balanced(examples, 3, spares=2), Hosting.balanced(examples, 3)
    assert len(with_spares) == 5
    for host in range(5):
        expected = without.of(host).tolist() if host < 3 else []
        assert with_spares.of(host).tolist() == expected
    assert with_spares.quotas(2) == [1, 1, 1, 0, 0]
    assert with_spares.quotas(5) == [*without.quotas(5), 0, 0]
    assert len(Hosting.one_each(3, spares=1)) == 4
