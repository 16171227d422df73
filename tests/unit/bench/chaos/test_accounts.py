"""The arithmetic of turns under faults, with numbers that were made up."""

import numpy as np
import pytest

from qafel_mpi.bench.chaos.accounts import (
    Away,
    Injected,
    Segment,
    Turn,
    before_the_clock,
    goodput,
    rank_seconds,
    rows,
)
from qafel_mpi.bench.chaos.schedule import Fault
from qafel_mpi.bench.chaos.turns import unequal
from qafel_mpi.trace_schema import MESSAGES

INF = float("inf")


@pytest.mark.parametrize(
    ("away", "seconds"),
    [
        ((), 70),
        ((Away(2, 14.0, INF),), 64),
        ((Away(2, 12.0, 15.0), Away(3, 12.0, 15.0)), 64),
        ((Away(2, 12.0, 15.0), Away(2, 14.0, INF)), 62),
        ((Away(2, 12.0, 18.0), Away(2, 13.0, 15.0)), 64),
        ((Away(2, 0.0, 5.0), Away(2, 30.0, 40.0)), 70),
    ],
    ids=["nobody", "dead", "two stopped", "stopped, then dead", "one in another", "outside"],
)
def test_a_rank_counts_for_the_time_that_it_could_work(away, seconds):
    """Seven client ranks, ten seconds."""
    assert rank_seconds([Segment(10.0, 20.0, away)], 7) == pytest.approx(seconds)


def test_the_time_between_a_cut_and_the_next_first_update_is_nobodys():
    assert rank_seconds([Segment(0.0, 10.0), Segment(15.0, 20.0)], 2) == 30


def test_updates_from_before_the_clock_of_each_start_do_not_count():
    """5 lay there when the first start was seen to work; the second went on with 90, and had 97 when it was seen."""
    assert before_the_clock([5], []) == 5
    assert before_the_clock([5, 97], [90]) == 12
    assert before_the_clock([5], [90]) == 5, "the job did not come back from its cut"
    assert before_the_clock([], []) == 0


def test_a_turn_says_what_was_injected_and_what_it_cost():
    faults = [
        Injected(Fault(1.0, kind, 0, 0.0), lost=lost)
        for kind, lost in (("cut", 1200), ("kill", 1), ("cut", 5))
    ]
    assert Turn(used=30_000, injected=faults).summary == "kill 1, cut 2; 1,206 lost, 30,000 updates used"
    assert Turn(used=7).summary == "no faults; 0 lost, 7 updates used"


def test_turns_of_other_lengths_make_a_pair():
    """A pair compares seconds for an update, and the turn without faults is a third as long."""
    *_, everything = rows([Turn(297, 30.0), Turn(285, 30.0)], [Turn(100, 10.0), Turn(100, 10.0)], 8)
    assert everything.derived["goodput"] == pytest.approx(0.97)
    assert everything.columns()["ratio_ci95"] == pytest.approx([0.95, 0.99])


def test_goodput_is_the_rate_of_a_rank_over_that_without_faults():
    """90 updates in 10 rank seconds beside 100 in 10: 0.9, although the turns differ in length."""
    assert goodput([Turn(45, 5.0), Turn(45, 5.0)], [Turn(200, 20.0)]) == pytest.approx(0.9)
    assert np.isnan(goodput([Turn()], [Turn(200, 20.0)]))


def test_rows_have_each_kind_and_all_together():
    kill = Injected(Fault(1.0, "kill", 2, 0.0), noticed_s=0.2, recovered_s=0.3, lost=1)
    late = Injected(Fault(2.0, "kill", 3, 0.0), noticed_s=0.4, recovered_s=0.5, lost=2)
    cut = Injected(Fault(3.0, "cut", 0, 0.0), recovered_s=4.0, lost=7)
    under = [Turn(90, 10.0, [kill, late]), Turn(80, 10.0, [cut], wrong=["its replay differs"])]
    free = [Turn(100, 10.0), Turn(100, 10.0, hung=True, grown_bytes=2_000_000)]
    kills, cuts, everything = rows(under, free, 8)
    assert kills.parameters == {"fault": "kill", "ranks": 8}
    assert kills.derived == pytest.approx(
        {"injected": 2, "lost": 3, "recovered": 2, "notice_us": 0.3e6, "notice_max_us": 0.4e6}
    )
    assert (kills.wrong, kills.ours.median) == (0, pytest.approx(0.4))
    assert (cuts.wrong, cuts.derived["lost"]) == (1, 7)
    assert "notice_us" not in cuts.derived, "nobody is left to notice it"
    assert everything.derived["goodput"] == pytest.approx(170 / 200)
    assert (everything.wrong, everything.derived["hangs"], everything.derived["grown_mb"]) == (1, 1, 2)
    assert everything.columns()["ratio"] == pytest.approx((0.9 + 0.8) / 2)


def test_messages_that_one_end_alone_has_are_named():
    found = np.zeros(3, MESSAGES)
    found["src"], found["dst"], found["end"] = [1, 1, 1], [0, 0, 0], [0, 0, 1]
    assert unequal(found, [0, 1]) == ["rank 1 sent 2 messages to rank 0, which received 1"]
    assert unequal(found[1:], [0, 1]) == []


def test_runs_that_did_not_begin_are_no_result():
    with pytest.raises(RuntimeError, match="no run came to its end: no mpirun"):
        rows([Turn(wrong=["no mpirun"])], [Turn(10, 1.0)], 8)
