"""A run's trace as a row, so that references speak of runs too."""

from __future__ import annotations

import h5py
import pytest
from qafel_analysis.example import Example, write

from qafel_mpi.bench.measuring.references import Reference, problems
from qafel_mpi.bench.measuring.result import ResultError
from qafel_mpi.bench.measuring.runs import is_run, read_run


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "a.h5"
    write(path, Example(messages=2_000))
    with h5py.File(path, "r+") as file:
        file.attrs["outcome"] = "finished"
    return path


def test_a_runs_throughput_can_be_held_against_a_reference(trace):
    assert is_run(trace)
    result = read_run(trace)
    with h5py.File(trace) as file:
        about = dict(file.attrs)
    (row,) = result.rows
    assert row.columns()["uploads_per_s"] == about["uploads"] / about["seconds"]
    assert row.columns()["median_us"] == pytest.approx(1e6 * about["seconds"] / about["uploads"])
    assert result.provenance == {"host": about["host"]}
    held = Reference(
        system="*",
        bench="run",
        where={"algorithm": about["algorithm"], "ranks": int(about["ranks"])},
        column="uploads_per_s",
        target=2 * about["uploads"] / about["seconds"],
        lower=-0.4,
        unit="1/s",
    )
    assert "uploads_per_s is" in problems([held], result.rows, "any")[0]


def test_a_run_that_is_not_whole_is_refused(trace):
    with h5py.File(trace, "r+") as file:
        file.attrs["outcome"] = "interrupted by SIGTERM"
    with pytest.raises(ResultError, match="not whole"):
        read_run(trace)


def test_what_is_no_trace_is_a_benchmarks_or_nobodys(tmp_path, made):
    made.write_hdf5(tmp_path / "bench.h5")
    made.write_json(tmp_path / "bench.json")
    assert not any(is_run(tmp_path / name) for name in ("bench.h5", "bench.json", "none.h5"))
