"""Questions in virtual time."""

import pytest

from qafel_mpi.schedule.config import ClockConfig
from qafel_mpi.schedule.events import FINISH, START
from qafel_mpi.schedule.pull import Pulls


def pulls(asked: int = 3, seed: int = 0, **duration) -> Pulls:
    clock = ClockConfig(
        kind="virtual", ask_seconds=0.5, duration=duration or {"kind": "constant", "scale": 2.0}
    )
    return Pulls(clock, 10, seed, asked)


def test_different_clients_are_asked_at_every_period_and_all_start_before_one_finishes():
    schedule = pulls()
    for ask in range(1, 20):
        events = [schedule.next(0) for _ in range(6)]
        assert [event.kind for event in events] == [START] * 3 + [FINISH] * 3
        assert {event.t_s for event in events} == {0.5 * ask}
        assert len({event.client for event in events}) == 3
        assert [event.client for event in events[:3]] == [event.client for event in events[3:]]


def test_a_share_is_the_time_since_the_last_question_over_that_of_a_training():
    """Every 0.5 s, 2 s a training: a quarter for each period since then, all of it after four."""
    schedule, asked_s = pulls(), {}
    for _ in range(40):
        for event in [schedule.next(0) for _ in range(6)][:3]:
            before_s = asked_s.get(event.client, 0.0)
            assert event.start_s == before_s
            assert schedule.shares[event.client, event.participation] == min(1.0, (event.t_s - before_s) / 2)
            asked_s[event.client] = event.t_s


def test_it_goes_on_from_its_state():
    schedule, again = pulls(kind="exponential"), pulls(kind="exponential")
    for _ in range(13):
        schedule.next(0)
    again.restore(schedule.state())
    assert [schedule.next(0) for _ in range(30)] == [again.next(0) for _ in range(30)]
    assert schedule.shares == again.shares


def test_more_than_there_are_can_not_be_asked():
    with pytest.raises(IndexError):
        pulls(asked=11).next(0)
