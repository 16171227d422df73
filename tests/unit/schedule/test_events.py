"""Schedules: order, rates, populations. Random ones state their seeds and error rates."""

import copy
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qafel_mpi.parsing import DataError
from qafel_mpi.schedule.config import ClockConfig, DurationConfig, StalenessControl
from qafel_mpi.schedule.draws import speeds
from qafel_mpi.schedule.events import FINISH, START, in_training, schedule
from qafel_mpi.schedule.population import Population


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


CONTROLLED = ClockConfig(kind="virtual", staleness=StalenessControl(kind="constant", max=3))


@pytest.mark.parametrize("name", [*CLOCKS, "rounds", "controlled"])
def test_how_many_train_at_a_time_is_known_before(name):
    """At a rate it is a mean: within a third over 3,000 events, and the others never pass it and reach it."""
    clock = CLOCKS.get(
        name, CONTROLLED if name == "controlled" else ClockConfig(kind="virtual", concurrency=12)
    )
    expected = in_training(clock, clients=50, buffer_size=10, synchronous=name == "rounds")
    training, counts, now = set(), [], -1
    for event, version in events(clock, 3000, synchronous=name == "rounds"):
        if name == "rounds" and version != now:
            training.clear()  # late ones are given up
        now, job = version, (event.client, event.participation)
        training.symmetric_difference_update({job})
        counts.append(len(training))
    if name in ("constant", "poisson", "slow and fast", "dropout"):
        assert np.mean(counts[500:]) == pytest.approx(expected, rel=1 / 3)
    else:
        assert max(counts) == expected


@pytest.mark.parametrize("name", CLOCKS)
def test_the_same_seed_gives_the_same_events_and_another_does_not(name):
    first, again, other = (events(CLOCKS[name], 500, seed=s) for s in (3, 3, 4))
    assert first == again
    assert first != other


STALENESS = ClockConfig(kind="virtual", staleness=StalenessControl(kind="uniform", max=3))
RESTORED = CLOCKS | {
    "rounds": ClockConfig(kind="virtual", concurrency=20, dropout=0.1),
    "staleness": STALENESS,
    "no replacement, limited": ClockConfig(kind="virtual", rate=1000.0, limit=7, replacement=False),
}


@pytest.mark.parametrize("name", RESTORED)
def test_a_restored_schedule_goes_on_as_if_it_had_never_stopped(name):
    """Stopped at moments before, within and behind the first block of draws, which has 4,096."""
    made = {"clients": 50, "seed": 5, "buffer_size": 10, "synchronous": name == "rounds"}
    plan = schedule(RESTORED[name], **made)
    copies, used = [], 0
    for n in range(4_600):
        if n in (0, 57, 4_400):
            copies.append((n, copy.deepcopy(plan.state()), []))
        event = plan.next(used // 10)
        for _, _, followed in copies:
            followed.append((used // 10, event))
        used += event.kind == FINISH and event.reports
    for n, state, followed in copies:
        other = schedule(RESTORED[name], **made)
        other.restore(state)
        assert all(other.next(version) == event for version, event in followed), f"restored at event {n}"


def test_with_staleness_by_decree_it_does_where_the_server_uses_few_updates_too():
    """The server uses τ ≤ 1 alone: others take the places of the rest, and time runs ahead of the version."""
    clock = ClockConfig(kind="virtual", staleness=StalenessControl(kind="uniform", max=20))

    def made():
        return schedule(clock, clients=50, seed=5, buffer_size=10, synchronous=False)

    plan, followed, copies = made(), [], {}
    started, used = {}, 0
    while used < 300:
        version = used // 10
        if version and version % 7 == 0 and version not in copies:
            copies[version] = (len(followed), copy.deepcopy(plan.state()))
        event = plan.next(version)
        followed.append((version, event))
        job = (event.client, event.participation)
        if event.kind == START:
            started[job] = version
        else:
            used += version - started.pop(job) <= 1
    for version, (n, state) in copies.items():
        other = made()
        other.restore(state)
        assert all(other.next(t) == event for t, event in followed[n:]), f"restored at version {version}"


def test_the_state_of_other_settings_is_refused():
    few, many = (
        schedule(CLOCKS["constant"], clients=n, seed=0, buffer_size=10, synchronous=False) for n in (10, 50)
    )
    with pytest.raises(ValueError, match="uint32"):
        few.restore(many.state())


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
        assert mean is not None
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


@pytest.mark.parametrize("clients", [30, 50])
def test_always_training_means_that_a_finish_is_a_start_and_nobody_trains_twice(clients):
    found = [event for event, _ in events(CLOCKS["always"], 2000, clients=clients)]
    assert [e.kind for e in found[:30]] == [START] * 30
    training = {e.client for e in found[:30]}
    assert len(training) == 30
    for finish, start in zip(found[30::2], found[31::2], strict=True):
        assert (finish.kind, start.kind, finish.t_s) == (FINISH, START, start.t_s)
        training.remove(finish.client)
        assert start.client not in training
        training.add(start.client)
        assert clients > 30 or finish.client == start.client
    assert clients == 30 or len({e.client for e in found}) == 50  # nobody's data is left out


def test_clients_are_drawn_uniformly_with_and_without_replacement():
    """Chi-square over 20 clients and 20,000 starts, seed 1: a false alarm at 60 (19 degrees) has a chance of 4e-6."""
    for replacement in (True, False):
        people = Population(20, seed=1, replacement=replacement, dropout=0.0)
        training, counts = [], np.zeros(20)
        for n in range(20_000):
            client, _, _ = people.begin()
            counts[client] += 1
            training.append(client)
            if len(training) > 15:
                people.finish(training.pop(n % 15))
        assert ((counts - 1000) ** 2 / 1000).sum() < 60


def test_without_replacement_all_but_the_last_client_can_train_at_no_extra_cost():
    people = Population(1_000_000, seed=0, replacement=False, dropout=0.0)
    drawn = [people.begin()[0] for _ in range(1_000_000)]
    assert len(set(drawn)) == 1_000_000
    with pytest.raises(IndexError, match="every client is training"):
        people.begin()
    people.finish(7)
    assert people.begin() == (7, 1, True)


def test_dropouts_have_the_share_that_was_asked_for():
    """10,000 starts at 0.3: a false alarm at 5 standard deviations has a chance below 1e-6."""
    starts = [e.reports for e, _ in events(CLOCKS["dropout"], 20_000) if e.kind == START]
    share = 1 - np.mean(starts)
    assert abs(share - 0.3) < 5 * math.sqrt(0.3 * 0.7 / len(starts))


@pytest.mark.parametrize("kind", ["constant", "uniform"])
def test_staleness_by_decree(kind):
    clock = ClockConfig(kind="virtual", staleness=StalenessControl(kind=kind, max=4))
    started, seen = {}, Counter[int]()
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


@pytest.mark.parametrize("kind", ["constant", "uniform"])
def test_with_staleness_by_decree_others_take_the_places_of_rejected_updates(kind):
    """A server that rejects every third update: each step has its ten all the same, and time does not go back."""
    clock = ClockConfig(kind="virtual", staleness=StalenessControl(kind=kind, max=4))
    plan = schedule(clock, clients=50, seed=0, buffer_size=10, synchronous=False)
    training, finishes, used, now_s = set(), 0, 0, 0.0
    while used < 1000:
        event = plan.next(used // 10)
        assert event.t_s >= now_s
        now_s, job = event.t_s, (event.client, event.participation)
        if event.kind == START:
            assert job not in training
            training.add(job)
        else:
            training.remove(job)
            finishes += 1
            used += finishes % 3 > 0


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
    clock = ClockConfig(
        kind="virtual", concurrency=20, duration=DurationConfig(kind="file", path=path, scale=2)
    )
    found = [event for event, _ in events(clock, 200)]
    assert {round(e.t_s - e.start_s, 9) for e in found if e.kind == FINISH} == {3.0, 5.0}
    starts = [e.t_s for e in found if e.kind == START]
    assert np.allclose(np.diff(starts), 4.0 / 20)  # the rate that gives 20, from the file's mean
    for text, message in {
        "1.5\n-1\n": ", line 2: duration '-1' is not positive",
        "fast\n": ", line 1: duration 'fast' is not a finite decimal number",
        "1.5 1_0\n": ", line 1: duration '1_0' is not a finite decimal number",
        "# none\n": ": no durations",
    }.items():
        path.write_text(text)
        with pytest.raises(DataError, match=rf"durations\.txt{message}"):
            events(clock, 1)


def test_clients_keep_their_speed_and_its_mean_is_one():
    """So the rate that was computed for a concurrency holds for heterogeneous clients too."""
    config = DurationConfig(kind="constant", speed_sigma=1.0)
    factors = np.array(speeds(config, 1000, seed=5))
    assert np.mean(factors) == pytest.approx(1.0, rel=1e-6)
    assert np.std(np.log(factors)) == pytest.approx(1.0, rel=0.1)
    clock = ClockConfig(kind="virtual", concurrency=100, duration=config)
    for event, _ in events(clock, 3000, clients=1000, seed=5):
        if event.kind == FINISH:
            assert event.t_s - event.start_s == pytest.approx(factors[event.client])


@pytest.mark.parametrize("trend", [-1.0, 0.0, 0.7, 1.0])
def test_a_trend_is_the_correlation_of_speed_and_number(trend):
    config = DurationConfig(kind="constant", speed_sigma=0.5, speed_trend=trend)
    logs = np.log(np.array(speeds(config, 1000, seed=5)))
    assert np.std(logs) == pytest.approx(0.5, rel=0.1)
    number = np.arange(1000)
    ranks = np.argsort(np.argsort(logs))
    assert np.corrcoef(ranks, number)[0, 1] == pytest.approx(trend, abs=0.05)
    assert (ranks == (number if trend > 0 else number[::-1])).all() == (abs(trend) == 1)


def test_a_trend_of_equal_speeds_is_refused():
    with pytest.raises(ValueError, match="speed_trend has no effect with speed_sigma = 0"):
        DurationConfig(speed_trend=0.5)


def test_at_equal_times_a_finish_comes_before_a_start():
    clock = ClockConfig(kind="virtual", rate=1.0, duration=DurationConfig(kind="constant"))
    kinds = [event.kind for event, _ in events(clock, 9)]
    assert kinds == [START, *[FINISH, START] * 4]


@given(n=st.integers(1, 9), buffer_size=st.integers(1, 5), most=st.integers(0, 6), seed=st.integers(0, 99))
def test_staleness_by_decree_uses_k_updates_a_step(n, buffer_size, most, seed):
    clock = ClockConfig(kind="virtual", staleness=StalenessControl(kind="uniform", max=most))
    found = events(clock, 40 * n, buffer_size=buffer_size, seed=seed)
    finishes = [(e, version) for e, version in found if e.kind == FINISH]
    assert [e.sequence for e, _ in finishes] == list(range(len(finishes)))
    for e, version in finishes:
        assert version == e.sequence // buffer_size
        assert 0 <= version - e.start_s <= most


@pytest.mark.parametrize(
    "settings",
    [
        {"rate": 0},
        {"rate": 10, "concurrency": 10},
        {"start": "always", "rate": 5},
        {"dropout": 1.0},
        {"start": "always", "limit": 5},
    ],
)
def test_impossible_clocks_are_refused(settings):
    with pytest.raises(ValueError, match=r"rate|dropout|limit"):
        ClockConfig(kind="virtual", **settings)
