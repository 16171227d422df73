"""Who still owes rank 0 something at the end of a wall run."""

from qafel_mpi.drivers.wall.senders import Round, Senders


def test_a_rank_owes_until_its_goodbye_and_all_that_it_announces_have_come():
    senders = Senders([1, 2, 3])
    senders.took(1)
    senders.said_goodbye(1, 1)
    senders.said_goodbye(2, 2)  # a small message may overtake two large ones
    assert senders.waits() == "the last messages of rank 3"
    senders.said_goodbye(3, 0)
    senders.took(2)
    assert senders.waits() == "updates that rank 2 announced"
    senders.took(2)
    assert (senders.waits(), senders.owing) == ("", set())


def test_a_message_that_was_no_update_keeps_nobody_waiting():
    senders = Senders([1])
    senders.took(1)
    senders.took(1)
    senders.said_goodbye(1, 1)
    assert not senders.owing


def test_a_round_is_over_when_every_rank_has_reported_as_often_as_it_is_asked():
    round_ = Round({1: 2, 2: 1})
    round_.report(1)
    round_.report(2, refused=True)
    assert not round_.over
    round_.report(1)
    assert (round_.over, round_.refused) == (True, 1)
    round_.begin()
    assert (round_.over, round_.refused) == (False, 0)


def test_what_a_rank_sends_beyond_what_a_round_asks_of_it_stands_for_nobody_else():
    """Something refused that was no update at all, and two updates behind it."""
    round_ = Round({1: 1, 2: 1})
    round_.report(1, refused=True)
    round_.report(1)
    assert not round_.over
    round_.report(2)
    assert round_.over
