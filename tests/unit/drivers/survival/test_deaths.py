"""Which runs go on without a client rank, and what is said of one that has died."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from qafel_mpi.config import load
from qafel_mpi.drivers.survival.deaths import Deaths, why_it_ends
from qafel_mpi.transport import mortal
from qafel_mpi.transport.failures import RankDiedError

COMM: Any = SimpleNamespace(rank=0, size=4, Ibarrier=lambda: SimpleNamespace(Test=lambda: True))


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("clock.kind=wall", ""),
        ("transport.broadcast=tree", "transport.broadcast = 'tree' needs every rank"),
        ("transport.broadcast=ibcast", "transport.broadcast = 'ibcast' needs every rank"),
        ("transport.ranks=3", "transport.ranks = 3, and the ranks left out wait"),
    ],
)
def test_what_can_not_go_on_has_a_reason(setting, why):
    found = why_it_ends(load("digits", ["clock.kind=wall", setting]))
    assert found.startswith(why)
    assert bool(found) == bool(why)


@pytest.fixture
def deaths(monkeypatch):
    monkeypatch.setattr(mortal, "survives", lambda: True)
    found = Deaths(COMM, ["n1", "n1", "n2", "n2"])
    monkeypatch.setattr(found.failures, "look", lambda: None)
    return found


def test_a_death_before_the_run_ends_the_job_and_names_rank_and_host(deaths):
    assert not deaths.endured
    deaths.failures.gone[2] = 1.0
    with pytest.raises(RankDiedError, match=r"^rank 2 on n2 has died; the run had not begun yet$"):
        deaths.look()


def test_a_clients_death_is_named_once_and_rank_0s_ends_the_run(deaths):
    deaths.begin(load("digits", ["clock.kind=wall"]), lambda ready, what: None)
    assert deaths.endured
    deaths.failures.gone |= {3: 1.0, 2: 1.0}
    deaths.look()
    assert (deaths.fresh(), deaths.fresh()) == ([2, 3], [])
    deaths.failures.gone[0] = 2.0
    with pytest.raises(RankDiedError, match=r"^rank 0 on n1 has died, and"):
        deaths.look()


def test_what_ends_with_a_rank_says_so_beforehand(deaths):
    said: list[str] = []
    deaths.begin(load("digits", ["clock.kind=wall", "transport.broadcast=tree"]), lambda ready, what: None)
    deaths.warn(said.append)
    assert said == [
        "the death of a client rank will end this run: transport.broadcast = 'tree' needs every rank; with 'fanout' "
        "the run goes on"
    ]
