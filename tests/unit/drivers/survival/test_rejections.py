"""Rejected and clipped updates are counted by client, recorded, said a few times, and end a run of no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from qafel_mpi.algorithms.bounds import CLIPPED, REJECTED, Finding
from qafel_mpi.drivers.survival.container import read, write
from qafel_mpi.drivers.survival.rejections import IN_A_ROW, SAID, Origin, Rejections
from qafel_mpi.trace_schema import FAULT_NUMBERS


def test_their_kinds_are_those_of_the_trace() -> None:
    assert {REJECTED, CLIPPED} <= FAULT_NUMBERS.keys()


RECORDED = list[tuple[str, int, str]]


def origin(client: int) -> Origin:
    return Origin(client, 2, "node7", 4)


@pytest.fixture
def recorded() -> RECORDED:
    return []


@pytest.fixture
def rejections(recorded: RECORDED) -> Rejections:
    return Rejections(lambda kind, of, why: recorded.append((kind, of.client, why)), buffer_size=10)


def test_they_are_counted_by_kind_and_client_and_recorded(rejections: Rejections, recorded: RECORDED) -> None:
    clients = [5, 7, 5]
    first = [Finding(0, REJECTED, "nan"), Finding(2, CLIPPED, "5")]
    rejections.note(first, lambda i: origin(clients[i]), received=3, uploads=3)
    rejections.note([Finding(0, REJECTED, "inf")], lambda i: origin(5), received=1, uploads=4)
    assert rejections.counts == {(REJECTED, 5): 2, (CLIPPED, 5): 1}
    assert (rejections.total(REJECTED), rejections.total(CLIPPED)) == (2, 1)
    assert recorded == [(REJECTED, 5, "nan"), (CLIPPED, 5, "5"), (REJECTED, 5, "inf")]


def reject(rejections: Rejections, uploads: int, *, beside: int = 0) -> None:
    """One of the updates that were taken together, the last of so many."""
    finding = Finding(0, REJECTED, "a scale that is nan")
    rejections.note([finding], lambda i: origin(6), received=1 + beside, uploads=uploads)


def test_the_first_few_are_said_with_client_rank_and_host(
    rejections: Rejections, capsys: pytest.CaptureFixture[str]
) -> None:
    for uploads in range(1, SAID + 5):
        reject(rejections, uploads)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == SAID
    assert lines[0] == "qafel-mpi: update rejected: client 6 (rank 2 on node7): a scale that is nan"
    assert lines[-1].endswith("; from now on only the trace says so")


def test_a_run_in_which_nothing_is_used_any_more_ends(rejections: Rejections) -> None:
    for uploads in range(7, 7 + IN_A_ROW - 1):
        reject(rejections, uploads)
    assert rejections.reason == ""
    reject(rejections, 6 + IN_A_ROW)
    assert rejections.reason == (
        "failed: the last 100 updates were all rejected, the last one, of client 6, for a scale that is nan"
    )


def test_restored_they_are_counted_on(
    rejections: Rejections, recorded: RECORDED, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a checkpoint holds them: the same totals, nothing said again, and the run ends where it would have."""
    before = Rejections(lambda kind, of, why: None, buffer_size=10)
    before.note([Finding(0, CLIPPED, "5")], lambda i: origin(7), received=1, uploads=1)
    for uploads in range(2, 1 + IN_A_ROW):
        reject(before, uploads)
    write(tmp_path / "a.qck", {"rejections": before.state()})
    capsys.readouterr()
    rejections.restore(read(tmp_path / "a.qck")["rejections"])
    assert (rejections.total(REJECTED), rejections.total(CLIPPED)) == (IN_A_ROW - 1, 1)
    reject(rejections, 1 + IN_A_ROW)
    assert rejections.counts == {(REJECTED, 6): IN_A_ROW, (CLIPPED, 7): 1}
    assert rejections.reason.startswith("failed: the last 100 updates were all rejected")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("at_once", [1, 7, 10, 106])
def test_a_run_ends_at_the_same_update_however_many_are_taken_at_once(
    rejections: Rejections, at_once: int
) -> None:
    """Nine rejected, one used, 99 rejected: it goes on. The hundredth ends it: nothing is taken behind that."""
    used = [9]
    taken = 0
    while taken < 9 + 1 + IN_A_ROW:
        assert rejections.reason == ""
        received = min(at_once, rejections.room(taken))
        rejected = [i for i in range(received) if taken + i not in used]
        findings = [Finding(i, REJECTED, "nan") for i in rejected]
        taken += received
        if findings:
            rejections.note(findings, lambda i: origin(6), received=received, uploads=taken)
    assert taken == 9 + 1 + IN_A_ROW
    assert (
        rejections.reason
        == "failed: the last 100 updates were all rejected, the last one, of client 6, for nan"
    )


@pytest.mark.parametrize(("every", "beside"), [(2, 0), (1, 1)], ids=["between", "together"])
def test_with_good_updates_among_them_it_goes_on(rejections: Rejections, every: int, beside: int) -> None:
    for uploads in range(0, 10 * IN_A_ROW, every * (1 + beside)):
        reject(rejections, uploads, beside=beside)
    assert rejections.reason == ""
