"""Who still owes rank 0 something at the end of a wall run."""

from types import SimpleNamespace

import pytest

from qafel_mpi.drivers.wall.senders import LAST, Claims, Once, Round, Senders
from qafel_mpi.wire import Kind, Message, WireError


def test_a_rank_owes_until_all_has_come_that_was_matched_before_its_goodbye():
    senders = Senders([1, 2, 3])
    senders.took(1)
    senders.said_goodbye(1, 2, 1)
    senders.said_goodbye(2, 5, 2)  # a small message may overtake two large ones
    senders.settle(lambda receive: receive <= 2)
    assert senders.waits() == "the last messages of rank 3"
    senders.said_goodbye(3, 6, 0)
    senders.settle(lambda receive: receive <= 2)
    assert senders.waits() == "updates that ranks 2, 3 sent before the goodbye"
    senders.took(2)
    senders.took(2)
    senders.settle(lambda receive: True)
    assert (senders.waits(), senders.owing, senders.lost()) == ("", set(), {})


def test_a_damaged_goodbye_and_a_message_that_was_no_update_keep_nobody_waiting():
    senders = Senders([1, 2])
    senders.said_goodbye(1, 1, None)
    senders.took(2)
    senders.took(2)
    senders.said_goodbye(2, 4, 1)
    senders.settle(lambda receive: True)
    assert (senders.owing, senders.lost()) == (set(), {})


def test_what_a_rank_has_sent_and_never_came_is_counted():
    senders = Senders([1])
    senders.said_goodbye(1, 1, 3)
    senders.settle(lambda receive: True)
    assert senders.lost() == {1: 3}


SOUND = Message(Kind.UPDATE, client=4, version=7, sequence=LAST, seed=0xBEEF)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("client", 5, "5, this run has 5"),
        ("version", 8, "8, rank 0 is at 7"),
        ("sequence", LAST + 1, f"{LAST + 1}, a trace holds {LAST} at most"),
        ("seed", 0xDEAD, "0xdead, this run's uploads share 0xbeef"),
    ],
)
def test_what_a_sound_message_says_of_itself_and_can_not_be_makes_it_a_bad_one(field, value, why):
    server = SimpleNamespace(version=7, shared_key=0xBEEF, uplink=SimpleNamespace(shared=True))
    claims = Claims(server, clients=5)  # type: ignore[arg-type]
    claims.check(SOUND, 1)
    claims.check(Message(Kind.DIGEST, version=7, seed=0xDEAD), 1)  # the key of nothing
    with pytest.raises(WireError) as raised:
        claims.check(SOUND._replace(**{field: value}), 1)
    assert str(raised.value).endswith(f"from rank 1: {field}: {why}")


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


def test_a_rank_that_has_died_owes_nothing_and_is_not_asked_again():
    senders = Senders([1, 2])
    senders.took(1)
    senders.leave(1)
    assert (senders.owing, senders.living, senders.lost()) == ({2}, [2], {})
    round_ = Round({1: 2, 2: 1})
    round_.report(1)
    round_.leave(1)
    assert (round_.over, round_.refused) == (False, 1)
    round_.change({2: 3})
    round_.report(2)
    assert round_.over, "the round under way asks as much as before"
    round_.begin()
    for reports in (1, 2, 3):
        assert not round_.over
        round_.report(2)
        assert round_.refused == 0
        assert round_.over == (reports == 3)


def test_an_update_that_comes_again_is_known_also_where_others_overtook_it():
    once = Once([0, 3])
    assert [once.is_new(0, n) for n in (0, 2, 2, 1, 1, 0, 3, 3)] == [
        True,
        True,
        False,
        True,
        False,
        False,
        True,
        False,
    ]
    assert [once.is_new(1, n) for n in (2, 4, 3, 3, 5)] == [False, True, True, False, True]
    assert not once._missing  # nothing is kept of what has come in order


def test_of_updates_that_never_came_no_more_than_a_window_is_remembered():
    once = Once([0])
    assert once.is_new(0, 10**12)
    assert len(once._missing[0]) < Once.WINDOW
    assert once.is_new(0, 10**12 - 1)
    assert not once.is_new(0, 10**12 - Once.WINDOW - 1)
