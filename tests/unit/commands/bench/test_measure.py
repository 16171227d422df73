"""The tables that `qafel-mpi bench` prints, and its exit codes."""

from __future__ import annotations

import numpy as np
import pytest

from qafel_mpi.bench.measuring.references import Reference
from qafel_mpi.bench.measuring.result import DEVICE_COPY, MEMORY_PASS, Result, Row
from qafel_mpi.bench.measuring.timing import Samples
from qafel_mpi.commands.bench.measure import _judge, _shown
from qafel_mpi.commands.process import ExitCode
from tests.unit.bench.measuring.made import result as made_result
from tests.unit.bench.measuring.made import row as made_row
from tests.unit.bench.measuring.made import steady


def samples(microseconds: list[float]) -> Samples:
    return Samples(1e-6 * np.array(microseconds), np.array([1.0]), 10)


def row(reference_name: str) -> Row:
    """Ours takes 20 µs, and the reference 8 µs, twice 5 and twice 10."""
    ours, reference = samples([20.0] * 9), samples([8.0] * 5 + [5.0, 5.0, 10.0, 10.0])
    return Row("codec", {"operation": "encode"}, ours, reference, reference_name)


def shown(row: Row, capsys) -> tuple[str, dict[str, str]]:
    """The line about the table, and its cells under their headings."""
    list(_shown([row]))
    about, headings, cells = capsys.readouterr().out.strip().splitlines()
    return about, dict(zip(headings.split(), cells.replace(", ", ",").split(), strict=True))


@pytest.mark.parametrize("limit", [MEMORY_PASS, DEVICE_COPY])
def test_a_time_is_shown_as_a_multiple_of_the_machine_s_limit(limit, capsys):
    about, cells = shown(row(limit), capsys)
    assert f"Time/pass: the time over that of {limit}" in about
    assert (cells["Median(us)"], cells["Time/pass"]) == ("20", "2.5")
    low, high = map(float, row(limit).columns()["ratio_ci95"])
    assert (low, high) == (0.25, 0.5)
    assert "[2,4]" in cells.values()
    assert "Ratio" not in cells


def test_a_rival_is_shown_by_its_time_over_ours(capsys):
    about, cells = shown(row("numpy: plain formula"), capsys)
    assert "Ratio: the time of numpy: plain formula over ours" in about
    assert cells["Ratio"] == "0.4"
    assert "[0.25,0.5]" in cells.values()


def test_a_file_keeps_the_reference_s_time_over_ours_in_both_cases():
    assert row(MEMORY_PASS).columns()["ratio"] == row("numpy").columns()["ratio"] == 0.4


@pytest.mark.parametrize(
    ("wrong", "missed", "code"),
    [(0, False, ExitCode.DONE), (2, True, ExitCode.FAILED), (0, True, ExitCode.TARGET_NOT_REACHED)],
)
def test_wrong_content_fails_before_a_missed_reference(wrong, missed, code):
    """The row takes 10 µs."""
    rows = [made_row(steady(), wrong=wrong)]
    target = 5.0 if missed else 10.0
    reference = Reference(system="n*", bench="p2p", column="median_us", target=target, upper=0.1, unit="us")
    assert _judge(Result("p2p", rows, made_result().provenance), [reference]) == code
