"""Several launches of a benchmark as one row, without their samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from qafel_analysis.tables import launches

from qafel_mpi.bench.measuring.result import Result, Row
from qafel_mpi.bench.measuring.timing import Samples
from qafel_mpi.trace.reader import TraceError


def launch(folder: Path, name: str, seconds: float, *, incomplete: str = "", size: int = 8) -> Path:
    ours, reference = (Samples(np.full(20, s), np.zeros(2)) for s in (seconds, 2 * seconds))
    row = Row("p2p", {"operation": "latency", "bytes": size}, ours, reference, "raw mpi4py", wrong=0)
    path = folder / f"{name}.json"
    Result("p2p", [row], {}, incomplete).write_json(path)
    return path


def test_launches_of_one_command_are_one_row_with_a_number_each(tmp_path):
    files = [launch(tmp_path, f"{k}", s) for k, s in enumerate((1e-6, 3e-6, 2e-6))]
    other = launch(tmp_path, "other", 1e-6, size=16)
    found = launches.rows([launches.read(path) for path in [*files, other]])
    assert [(row["parameters"]["bytes"], len(row["launches"])) for row in found] == [(8, 3), (16, 1)]
    assert launches.values(found[0], "median_us") == pytest.approx([1.0, 3.0, 2.0])
    assert launches.values(found[0], "ratio") == pytest.approx([2.0, 2.0, 2.0])
    assert (found[0]["reference"], found[0]["launches"][0]["wrong"]) == ("raw mpi4py", 0)
    assert "values_us" not in json.dumps(found), "samples stay in the file that they come from"
    cells = launches.launches_grid(found).rows
    assert cells[0] == ("p2p latency bytes=8", "3", "2 [1, 3]", "2", "-2 [-3, -1]")[:3] + cells[0][3:]


def test_a_launch_that_ended_early_is_refused_with_its_reason(tmp_path):
    path = launch(tmp_path, "short", 1e-6, incomplete="interrupted by SIGINT")
    with pytest.raises(TraceError, match=r"short\.json: incomplete: interrupted by SIGINT"):
        launches.read(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON: Expecting value: line 1 column 1"),
        ("[]", "it has no rows of one"),
        ("{}", "it has no rows of one"),
        ('{"rows": [{}]}', "it has no rows of one"),
    ],
)
def test_a_file_that_is_no_result_is_named(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(TraceError, match=rf"x\.json: not a result of qafel-mpi bench \({why}"):
        launches.read(path)
