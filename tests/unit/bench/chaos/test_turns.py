"""Turns of a made-up job: how long they are, when faults come, and what is said of them."""

import pytest

from qafel_mpi.bench.chaos import turns
from qafel_mpi.bench.chaos.accounts import Turn
from qafel_mpi.bench.chaos.schedule import Fault
from qafel_mpi.bench.chaos.turns import Plan, Running, rows


def plan(seconds=1800.0, every_s=20.0):
    return Plan("digits", [], ("kill", "stop", "slow", "cut"), 8, seconds, every_s, seed=0, checkpoint_s=1.0)


@pytest.mark.parametrize(
    ("seconds", "count", "turn_s", "free_s"), [(1800, 10, 180, 60), (450, 2, 225, 75), (15, 1, 15, 5)]
)
def test_a_turn_without_faults_is_a_third_as_long(seconds, count, turn_s, free_s):
    made = plan(seconds)
    assert (made.turns, made.turn_s, made.free_s) == (count, turn_s, pytest.approx(free_s))


def test_every_turn_has_its_own_schedule():
    made = plan()
    assert made.faults(0) == made.faults(0) != made.faults(1)
    assert all(0 < fault.at_s < made.turn_s for fault in made.faults(0))


class Job:
    """Never over; stays until it is told."""

    over = False

    def __init__(self):
        self.stayed = []

    def stays_until(self, at_s):
        self.stayed.append(at_s)

    def cut(self):
        pass

    close = cut  # of Growth


def test_a_fault_comes_later_by_the_time_that_the_job_was_down(monkeypatch, tmp_path):
    """So that `--every` is of the time in which the clients train, and the last fault is not at the end."""
    running = Running(plan(), tmp_path, "faults-0", 60.0)
    running.job = running.growth = Job()

    def goes_on(since_s):
        running.begin_s = 100.0
        return True

    def inject(fault):
        running.down_s += 7.0 * (fault.kind == "cut")

    for name, made in (
        ("_goes_on", goes_on),
        ("_inject", inject),
        ("_start", lambda *a: None),
        ("_end", list),
    ):
        monkeypatch.setattr(running, name, made)
    running.run([Fault(10.0, "stop", 1, 1.0), Fault(20.0, "cut", 0, 0.0), Fault(30.0, "kill", 2, 0.0)])
    assert running.job.stayed == [110.0, 120.0, 137.0]


def test_a_line_is_said_for_every_turn_and_for_whatever_is_wrong(monkeypatch):
    made = {
        "faults-0": Turn(297, 30.0),
        "free-0": Turn(100, 10.0),
        "faults-1": Turn(285, 30.0),
        "free-1": Turn(100, 10.0),
    }
    made["free-1"].wrong.append("exit code 3")
    asked = {}

    def run(self, faults):
        asked[self.out.stem] = (self.seconds, len(faults))
        return made[self.out.stem]

    monkeypatch.setattr(turns.Running, "run", run)
    said = []
    (everything,) = rows(plan(seconds=360.0), said.append)
    assert said == [
        "2 turns of 180 s under faults and 60 s without, and a replay behind each",
        "turn 1 of 2: no faults; 0 lost, 297 updates used; goodput so far 0.990",
        "free-1: exit code 3",
        "turn 2 of 2: no faults; 0 lost, 285 updates used; goodput so far 0.970",
    ]
    assert asked == {"faults-0": (180, 8), "free-0": (60, 0), "faults-1": (180, 8), "free-1": (60, 0)}
    assert (everything.wrong, everything.derived["goodput"]) == (1, pytest.approx(0.97))
