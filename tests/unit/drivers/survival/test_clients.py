"""Which client ranks rank 0 gives up, and what it says of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from qafel_mpi.drivers.survival.clients import ClientsWatch
from qafel_mpi.drivers.wall.senders import Senders
from qafel_mpi.transport.backoff import WaitedTooLongError

LIMIT_S = 8.0


class Run:
    """What ClientsWatch sees of a run."""

    def __init__(self, knows_readers: bool = True):
        self.t_s = 0.0
        self.faults: list[tuple[str, int]] = []
        self.unread: dict[int, object] = {}
        self.session = SimpleNamespace(
            now_s=lambda: self.t_s,
            watchdog_s=LIMIT_S,
            patience_s=5.0,
            syncs={},
            experiment=SimpleNamespace(transport=SimpleNamespace(upload_frames=2)),
            placement=SimpleNamespace(hosts=["a", "a", "b"]),
            recorder=SimpleNamespace(flush=lambda: None),
            fault=lambda kind, rank, **more: self.faults.append((kind, rank)),
        )
        self.senders = Senders([1, 2])
        broadcast = SimpleNamespace(unread=self.unread.get, knows_readers=knows_readers, version=7)
        self.watch = ClientsWatch(self.session, self.senders, broadcast)  # type: ignore[arg-type]

    def goes_on(self, *, uploads=(), answers=()):
        """Until it is given up, or for five times the limit."""
        while self.t_s < 5 * LIMIT_S:
            self.t_s += 1.0
            for rank in uploads:
                self.senders.took(rank)
                self.watch.heard_s = self.t_s
            for rank in answers:
                self.session.syncs[rank] = self.t_s
            self.watch.look()


def test_a_rank_that_sends_and_answers_nothing_is_named_with_its_host_and_what_it_has_sent():
    run = Run()
    with pytest.raises(
        WaitedTooLongError, match=r"rank 2 on b has given no sign for 10 s, after 0 updates; rank 0 waits"
    ):
        run.goes_on(uploads=[1])
    assert run.faults == [("waited too long", 2)]


def test_a_rank_that_answers_is_alive_however_long_it_trains():
    Run().goes_on(uploads=[1], answers=[2])


def test_a_rank_that_takes_no_message_is_given_up_though_it_sends():
    run = Run()
    run.unread[2] = (4, 4)
    with pytest.raises(
        WaitedTooLongError, match=r"rank 2 on b has read nothing for 10 s, after 11 updates; .* broadcasts"
    ):
        run.goes_on(uploads=[1, 2])


def test_where_nobody_sends_though_all_answer_the_one_that_has_sent_the_fewest_is_named(capsys):
    run = Run()
    run.senders.took(2)
    with pytest.raises(
        WaitedTooLongError, match=r"rank 1 on a has sent nothing for 9 s, after 0 updates; .* of any rank"
    ):
        run.goes_on(answers=[1, 2])
    assert capsys.readouterr().err == (
        "qafel-mpi: rank 0 has waited 7 s for any upload; rank 1 has sent the fewest, 0\n"
    )


@pytest.mark.parametrize("knows_readers", [True, False])
def test_at_the_end_uploads_are_no_sign_of_a_rank_that_does_not_read_that_it_is_to_stop(knows_readers):
    run = Run(knows_readers)
    run.watch.ending()
    run.unread.update({2: (4, 4)} if knows_readers else {})
    run.senders.said_goodbye(1, 1, 0)
    run.senders.settle(lambda receive: True)
    with pytest.raises(WaitedTooLongError, match=r"rank 2 on b has not said goodbye for 10 s"):
        run.goes_on(uploads=[2], answers=[1, 2])


def test_at_the_end_a_rank_whose_last_uploads_still_come_is_waited_for():
    run = Run()
    run.watch.ending()
    for _ in range(2):  # that it had begun
        run.t_s += 0.9 * LIMIT_S
        run.senders.took(1)
        run.senders.took(2)
        run.watch.look()


def test_a_rank_that_goes_on_uploading_after_it_was_told_to_stop_is_given_up():
    run = Run()
    run.watch.ending()
    with pytest.raises(WaitedTooLongError, match=r"rank 1 on a has not said goodbye for"):
        run.goes_on(uploads=[1, 2])
