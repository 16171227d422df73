"""Signals: a question while a run goes on, an end where none does."""

from __future__ import annotations

import hashlib
import os
import signal
from contextlib import suppress
from threading import Event, Timer

import pytest

from qafel_mpi.commands import interrupt
from qafel_mpi.commands.interrupt import Interrupt, Interruption


def test_a_signal_before_the_run_asks_ends_the_job_at_once():
    with Interrupt() as interrupted:
        interrupted.starting()
        with pytest.raises(Interruption, match="SIGTERM before the run began: nothing is recorded") as raised:
            signal.raise_signal(signal.SIGTERM)
        assert raised.value.code == 75


def test_a_rank_other_than_0_leaves_that_to_rank_0(monkeypatch):
    monkeypatch.setattr(interrupt, "launcher_rank", lambda: 1)
    with Interrupt() as interrupted:
        signal.raise_signal(signal.SIGTERM)
        assert interrupted()


def test_a_warning_comes_to_the_run_also_when_the_mpi_library_has_taken_the_signal():
    taken: list[int] = []
    with Interrupt() as interrupted:
        signal.signal(signal.SIGUSR1, lambda number, frame: taken.append(number))  # as MPICH's MPI_Init
        interrupted.starting()
        assert not interrupted()
        signal.raise_signal(signal.SIGUSR1)
        assert interrupted()
    assert not taken


def test_the_first_interrupt_is_a_question_and_the_second_does_not_wait():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupted:
        interrupted.recorded = "`qafel-mpi merge a.shards`"
        assert not interrupted()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert interrupted()
        with pytest.raises(Interruption, match=r"at once; `qafel-mpi merge a\.shards`") as raised:
            os.kill(os.getpid(), signal.SIGINT)
        assert raised.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_a_first_signal_is_answered_by_how_to_find_what_is_recorded(capfd):
    with Interrupt() as interrupted:
        interrupted.recorded = "`qafel-mpi merge a.shards`"
        assert not interrupted()
        signal.raise_signal(signal.SIGUSR1)
        said = ""
        for _ in range(200):
            Event().wait(0.05)
            if said := capfd.readouterr().err:
                break
    assert said == "qafel-mpi: SIGUSR1: the run ends; if no summary follows: `qafel-mpi merge a.shards`\n"


def test_a_second_ctrl_c_ends_the_job_also_where_python_hears_of_nothing(monkeypatch):
    """The main thread is in C, as in MPI beside a rank that is stuck: no handler runs there."""
    monkeypatch.setattr(interrupt, "HANDLER_SECONDS", 0.05)
    # The second when the first was heard: two that wait for one process are one signal.
    monkeypatch.setattr(interrupt, "_say", lambda text: os.kill(os.getpid(), signal.SIGINT))
    ended, said = Event(), []

    def end(code: int, why: str) -> None:
        said.append((code, why))
        ended.set()

    with Interrupt(end) as interrupted:
        interrupted.recorded = "`qafel-mpi merge a.shards`"
        assert not interrupted()
        Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        with suppress(Interruption):  # where it was back for the second one
            hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000)  # releases the GIL, as mpi4py does
        assert ended.wait(20)
    assert said == [(130, "interrupted again: the job ends at once; `qafel-mpi merge a.shards`")]
