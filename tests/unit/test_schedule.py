"""Schedules: order, rates, populations. Random ones state their seeds and error rates."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qafel_mpi.schedule.config import ClockConfig, DurationConfig, StalenessControl
from qafel_mpi.schedule.events import FINISH, START, schedule


def events(clock: ClockConfig, n: int, *, clients=50, seed=0, buffer_size=10, synchronous=False):
    """The first n events, the version moving on after every buffer_size finishes."""
    plan = schedule(clock, clients=clients, seed=seed, buffer_size=buffer_size, synchronous=synchronous)
    found, used, version = [], 0, 0
    for _ in range(n):
        event = plan.next(version)
        found.append((event, version))
        if event.kind == FINISH and event.reports:
            used += 1
            version = used // buffer_size
    return found


CLOCKS = {
    "constant": ClockConfig(kind="virtual", concurrency=20),
    "poisson": ClockConfig(kind="virtual", start="poisson", rate=30.0),
    "always": ClockConfig(kind="virtual", start="always", concurrency=30),
    "limited": ClockConfig(kind="virtual", rate=1000.0, limit=7),
    "no replacement": ClockConfig(kind="virtual", rate=1000.0, replacement=False),
    "slow and fast": ClockConfig(
        kind="virtual", concurrency=20, duration=DurationConfig(kind="exponential", speed_sigma=1.0)
    ),
    "dropout": ClockConfig(kind="virtual", concurrency=20, dropout=0.3),
}


@pytest.mark.parametrize("name", CLOCKS)
def test_time_never_goes_back_and_every_finish_has_its_start(name):
    now_s, training = 0.0, {}
    for event, _ in events(CLOCKS[name], 2000):
        assert event.t_s >= now_s
        now_s = event.t_s
        job = (event.client, event.participation)
        if event.kind == START:
            assert job not in training
            training[job] = event.t_s
        else:
            assert training.pop(job) == event.start_s


@pytest.mark.parametrize("name", CLOCKS)
def test_the_same_seed_gives_the_same_events_and_another_does_not(name):
    first, again, other = (events(CLOCKS[name], 500, seed=s) for s in (3, 3, 4))
    assert first == again
    assert first != other


@given(seed=st.integers(0, 2**63 - 1), clients=st.integers(1, 40))
@settings(max_examples=30)
def test_participations_count_each_clients_trainings_from_zero(seed, clients):
    counts: Counter[int] = Counter()
    for event, _ in events(CLOCKS["constant"], 300, seed=seed, clients=clients):
        if event.kind == START:
            assert event.participation == counts[event.client]
            counts[event.client] += 1


@pytest.mark.parametrize("kind", ["half-normal", "exponential", "log-normal", "constant"])
def test_the_rate_for_a_mean_concurrency_is_littles_law(kind):
    """Time-averaged number in training over 20,000 starts; its standard error is below 1%, the bound is 4%."""
    clock = ClockConfig(kind="virtual", concurrency=100, duration=DurationConfig(kind=kind, scale=2.0))
    area, training, before_s = 0.0, 0, 0.0
    found = events(clock, 40_000, clients=1000)
    for event, _ in found:
        if event.t_s > 40:  # past the run-in
            area += training * (event.t_s - max(before_s, 40))
        training += 1 if event.kind == START else -1
        before_s = event.t_s
    assert area / (before_s - 40) == pytest.approx(100, rel=0.04)


def test_the_authors_rates_give_the_concurrencies_of_the_paper():
    for rate, concurrency in ((100, 80), (125, 100), (627, 500), (1253, 1000)):
        mean = ClockConfig(kind="virtual", rate=rate).duration.mean()
        assert rate * mean == pytest.approx(concurrency, rel=0.01)


def test_the_limit_is_never_passed_and_busy_clients_do_not_start_twice():
    for name, most in (("limited", 7), ("no replacement", 50)):
        training: set[tuple[int, int]] = set()
        largest = 0
        for event, _ in events(CLOCKS[name], 3000):
            job = (event.client, event.participation)
            if event.kind == START:
                if name == "no replacement":
                    assert event.client not in {client for client, _ in training}
                training.add(job)
            else:
                training.remove(job)
            largest = max(largest, len(training))
        assert largest == most


def test_a_population_that_always_trains_restarts_at_once():
    found = events(CLOCKS["always"], 2000, clients=30)
    assert [e.kind for e, _ in found[:30]] == [START] * 30
    for (finish, _), (restart, _) in zip(found[30::2], found[31::2], strict=True):
        assert (finish.kind, restart.kind) == (FINISH, START)
        assert (finish.client, finish.t_s) == (restart.client, restart.t_s)


def test_dropouts_have_the_share_that_was_asked_for():
    """10,000 starts at 0.3: a false alarm at 5 standard deviations has a chance below 1e-6."""
    starts = [e.reports for e, _ in events(CLOCKS["dropout"], 20_000) if e.kind == START]
    share = 1 - np.mean(starts)
    assert abs(share - 0.3) < 5 * math.sqrt(0.3 * 0.7 / len(starts))


@pytest.mark.parametrize("kind", ["constant", "uniform"])
def test_staleness_by_decree(kind):
    clock = ClockConfig(kind="virtual", staleness=StalenessControl(kind=kind, max=4))
    started, seen = {}, Counter()
    for event, version in events(clock, 6000):
        job = (event.client, event.participation)
        if event.kind == START:
            started[job] = version
        elif version >= 4:
            seen[version - started[job]] += 1
    if kind == "constant":
        assert set(seen) == {4}
    else:
        total = sum(seen.values())
        assert set(seen) == set(range(5))
        assert all(abs(n / total - 0.2) < 0.04 for n in seen.values())  # 5 standard deviations


def test_rounds_start_a_cohort_of_different_clients_from_each_version():
    clock = ClockConfig(kind="virtual", concurrency=15)
    by_version: dict[int, list[int]] = {}
    for event, version in events(clock, 1000, synchronous=True):
        if event.kind == START:
            by_version.setdefault(version, []).append(event.client)
    assert len(by_version) > 20
    for cohort in list(by_version.values())[:-1]:
        assert len(cohort) == len(set(cohort)) == 15


def test_durations_from_a_file(tmp_path):
    path = tmp_path / "durations.txt"
    path.write_text("1.5\n2.5\n")
    clock = ClockConfig(kind="virtual", rate=5, duration=DurationConfig(kind="file", path=path))
    took = {e.t_s - e.start_s for e, _ in events(clock, 200) if e.kind == FINISH}
    assert {round(t, 9) for t in took} == {1.5, 2.5}
    path.write_text("1.5\n-1\n")
    with pytest.raises(ValueError, match=r"durations\.txt: durations are positive"):
        events(clock, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"rate": 0},
        {"rate": 10, "concurrency": 10},
        {"start": "always", "rate": 5},
        {"dropout": 1.0},
        {"duration": DurationConfig(kind="file", path="x")},
    ],
)
def test_impossible_clocks_are_refused(settings):
    with pytest.raises(ValueError, match=r"rate|dropout"):
        ClockConfig(kind="virtual", **settings)
