"""Who gives no sign for too long, and what is said of it."""

from __future__ import annotations

from threading import Event
from time import perf_counter

from qafel_mpi.drivers.survival.watchdog import LOOKS, Silence, Watchdog

LIMIT_S = 8.0


def test_a_rank_whose_sign_does_not_change_for_too_long_is_silent():
    silence, signs = Silence([1, 2, 3], LIMIT_S, 0.0), {1: 0, 2: 0, 3: None}
    found = {}
    for second in range(20):
        signs[1] = second  # rank 3 is well without a sign
        found[second] = silence.look(float(second), signs.get)
    assert {second: ranks for second, ranks in found.items() if ranks} == {
        10: {2: 10.0},
        12: {2: 12.0},
        14: {2: 14.0},
        16: {2: 16.0},
        18: {2: 18.0},
    }


def test_ranks_are_looked_at_a_few_times_in_the_limit_however_often_one_asks():
    asked: list[int] = []
    silence = Silence([1], LIMIT_S, 0.0)
    for tick in range(1000):
        silence.look(tick * LIMIT_S / 1000, asked.append)
    assert len(asked) == LOOKS


def test_a_thread_says_where_its_rank_hangs_and_ends_the_job():
    said, ended = [], Event()

    def end(why: str) -> None:
        said.append(why)
        ended.set()

    begun_s = perf_counter()
    Watchdog(0.05, lambda: begun_s, end).start()
    assert ended.wait(20)
    (why,) = said
    assert "wait in threading.py:" in why
    assert "called by test_a_thread_says_where_its_rank_hangs_and_ends_the_job in test_watchdog.py:" in why
    assert why.endswith("transport.watchdog_seconds = 0.05 allows no more")


def test_a_rank_that_comes_by_is_left_alone():
    said: list[str] = []
    watchdog = Watchdog(0.5, perf_counter, said.append)
    watchdog.start()
    Event().wait(0.3)
    watchdog.stop()
    assert said == []


def test_a_watchdog_that_was_stopped_says_nothing():
    said: list[str] = []
    watchdog = Watchdog(0.2, lambda: 0.0, said.append)
    watchdog.stop()
    watchdog.start()
    Event().wait(0.1)
    assert said == []
