"""Schedules of faults."""

import pytest

from qafel_mpi.bench.chaos.schedule import KINDS, LONGEST_SECONDS, schedule


def made(kinds=tuple(KINDS), *, seed=0, ranks=8, seconds=400.0, every_s=20.0):
    return schedule(kinds, seed=seed, ranks=ranks, seconds=seconds, every_s=every_s)


def test_a_schedule_is_a_function_of_its_seed():
    assert made(seed=3) == made(seed=3)
    assert made(seed=3) != made(seed=4)


def test_there_is_one_fault_every_so_often_and_time_behind_the_last():
    assert [fault.at_s for fault in made(seconds=100.0)] == [20.0, 40.0, 60.0, 80.0]


def test_all_kinds_come_about_as_often():
    kinds = [fault.kind for fault in made(seconds=20.0 * 41)]
    assert {kinds.count(kind) for kind in ("stop", "slow")} == {10}
    assert kinds.count("kill") + kinds.count("cut") == 20


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ranks", [3, 4, 8])
def test_half_of_the_clients_live_and_only_the_living_are_hurt(seed, ranks):
    living = set(range(1, ranks))
    for fault in made(seed=seed, ranks=ranks):
        if fault.kind == "cut":
            living = set(range(1, ranks))
            continue
        assert fault.rank in living
        if fault.kind == "kill":
            living.remove(fault.rank)
        assert 2 * len(living) >= ranks - 1


def test_without_cuts_kills_end_when_half_of_the_clients_are_left():
    assert len(made(("kill",), ranks=8)) == 3


def test_what_lasts_is_over_before_the_next_fault():
    for every_s in (4.0, 20.0, 100.0):
        for fault in made(("stop", "slow"), every_s=every_s, seconds=50 * every_s):
            assert 1.0 <= fault.seconds <= min(LONGEST_SECONDS, every_s / 2)
