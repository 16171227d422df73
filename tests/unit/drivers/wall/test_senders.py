"""Who still owes rank 0 something at the end of a wall run."""

from qafel_mpi.drivers.wall.senders import Senders


def test_a_rank_owes_until_its_goodbye_and_all_that_it_announces_have_come():
    senders = Senders([1, 2, 3])
    senders.took(1)
    senders.said_goodbye(1, 1)
    senders.said_goodbye(2, 2)  # a small message may overtake two large ones
    assert senders.waits() == "the last messages of rank 3"
    senders.said_goodbye(3, 0)
    senders.took(2)
    assert senders.waits() == "updates that rank 2 announced"
    senders.took(2, refused=True)
    assert (senders.waits(), senders.owing) == ("", set())


def test_a_message_that_was_no_update_keeps_nobody_waiting():
    senders = Senders([1])
    senders.took(1, refused=True)
    senders.took(1)
    senders.said_goodbye(1, 1)
    assert not senders.owing


def test_a_rank_whose_update_was_refused_counts_as_such_until_its_next_one():
    senders = Senders([1, 2])
    senders.took(1, refused=True)
    senders.took(2, refused=True)
    senders.took(2)
    assert senders.refused == {1}
