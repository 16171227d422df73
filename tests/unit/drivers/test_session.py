"""Who says what it waits for, and when."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace

import pytest

from qafel_mpi.drivers.session import Session
from qafel_mpi.drivers.virtual.remote import RemoteWorkers
from qafel_mpi.drivers.wall.client import WallClient
from qafel_mpi.transport.backoff import SPINS, Backoff, WaitedTooLongError, wait_until
from qafel_mpi.transport.frames import new_frame


def waits(what: str) -> None:
    begun_s = perf_counter()
    wait_until(
        lambda: perf_counter() > begun_s + 0.1,
        lambda: what,
        patience_s=0.03,
        backoff=Backoff(crowded=True),
    )


def test_a_rank_that_the_command_has_muted_says_what_it_waits_for(capfd, monkeypatch):
    with Path(os.devnull).open("w") as nowhere:
        monkeypatch.setattr(sys, "stderr", nowhere)
        waits("rank 3 waits for rank 0")
        monkeypatch.undo()
    assert "qafel-mpi: rank 3 waits for rank 0 (" in capfd.readouterr().err


def test_where_others_say_it_nothing_is_printed(capfd):
    waits("")
    assert capfd.readouterr().err == ""


def test_who_waits_in_vain_for_too_long_gives_up_and_says_for_whom(monkeypatch):
    """A made-up clock: nine looks bring what is waited for nearer, the others show that somebody lives."""
    now = [100.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0], sleep=lambda seconds: None)
    monkeypatch.setattr("qafel_mpi.transport.backoff.time", clock)

    def ready() -> bool:
        now[0] += 0.02
        (backoff.moved if now[0] < 100.19 else backoff.reset)()
        return False

    backoff = Backoff(crowded=True)
    with pytest.raises(
        WaitedTooLongError, match=r"^rank 1 waits for rank 0 \(0 s so far\); transport.watchdog_seconds = 0.1"
    ):
        wait_until(ready, lambda: "rank 1 waits for rank 0", patience_s=60, backoff=backoff, limit_s=0.1)
    assert 100.28 < now[0] < 100.32


@pytest.mark.parametrize(("rank", "waits_on"), [(0, False), (1, True)])
def test_that_a_rank_tells_its_time_brings_rank_0_nothing_but_who_hears_rank_0_waits_on(rank, waits_on):
    backoff = Backoff(crowded=False)
    session = SimpleNamespace(
        shows_life=lambda: None,
        deaths=SimpleNamespace(look=lambda: None),
        clocks=SimpleNamespace(poll=list, heard=True),
        backoff=backoff,
        comm=SimpleNamespace(rank=rank),
        now_s=lambda: 0.0,
        memory_due_s=1.0,
        recorder=SimpleNamespace(flush_if_due=lambda: None),
    )
    before_s = backoff.moved_s
    for _ in range(SPINS):
        backoff.pause()
    Session.keep_books(session)  # type: ignore[arg-type]
    assert (backoff.moved_s > before_s) == waits_on
    assert backoff._idle == 0, "more may follow at once"


def test_who_has_no_words_leaves_others_time_to_say_it():
    begun_s = perf_counter()
    with pytest.raises(WaitedTooLongError, match="does not know for whom"):
        wait_until(lambda: False, str, patience_s=60, backoff=Backoff(crowded=True), limit_s=0.05)
    assert perf_counter() - begun_s > 0.1


@pytest.mark.parametrize(
    ("rank", "local_rank", "silent_s", "speaks"),
    [
        (0, 0, 0.0, True),
        (1, 1, 11.9, False),  # rank 0 was due to ask for the time 2 s ago: it may be about to
        (1, 1, 12.1, True),
        (2, 2, 12.1, False),  # rank 1 of the same host says it
        (8, 0, 12.1, True),
        (8, 0, 11.9, False),
    ],
)
def test_one_rank_a_host_speaks_when_rank_0_has_been_silent(monkeypatch, rank, local_rank, silent_s, speaks):
    monkeypatch.setattr("qafel_mpi.drivers.session.perf_counter", lambda: 100.0)
    session = SimpleNamespace(
        comm=SimpleNamespace(rank=rank),
        placement=SimpleNamespace(local_rank=local_rank),
        clock_period_s=10.0,
        patience_s=2.0,
        watchdog_s=14.0,
        heard_s=100.0 - silent_s,
    )
    assert Session.by_one(session, "rank 0") == ("rank 0" if speaks else "")  # type: ignore[arg-type]


def test_a_client_names_the_late_ones_below_it_in_the_tree():
    client = WallClient.__new__(WallClient)
    client.session = SimpleNamespace(by_one=lambda what: "")  # type: ignore[assignment]
    client.inbox = SimpleNamespace(late=(5,), waits=lambda: "ranks [5]")  # type: ignore[assignment]
    assert client._waits("rank 0 to take an upload") == "ranks [5]"
    client.inbox.late = ()
    assert client._waits("rank 0 to take an upload") == ""


def test_rank_0_names_the_workers_that_owe_results():
    workers = RemoteWorkers.__new__(RemoteWorkers)
    workers.session = SimpleNamespace(comm=SimpleNamespace(size=4))  # type: ignore[assignment]
    workers.ranks, workers.outstanding = [1, 2, 3], {1: 0, 2: 4, 3: 1}
    workers._scores = dict.fromkeys((0, 1, 4), None)  # type: ignore[arg-type]
    assert workers._busy() == "ranks 2, 3"
    assert workers._unscored(5) == "ranks 1, 3"  # parts 3 and 2: rank 1 has parts 0 and 3, rank 3 part 2
    workers._awaited = {(7, 3)}
    assert workers._owed((7, 3)) == "the update of client 7, participation 3, from ranks 2, 3"
    assert workers._owed((7, 4)) == "the update of client 7, participation 4, which no rank was given"


def test_a_worker_is_sent_nothing_behind_its_stop():
    workers = RemoteWorkers.__new__(RemoteWorkers)
    workers._stopping = True
    with pytest.raises(AssertionError, match="rank 2 takes nothing behind its STOP"):
        workers._post(new_frame(0), 2)
