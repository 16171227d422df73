"""A suite leaves alone what is not its own: runs of other processes, traces that it can't read, damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from qafel_mpi.config_text import ConfigError
from qafel_mpi.drivers import suite
from qafel_mpi.drivers.build import RunSummary
from qafel_mpi.drivers.suite_plan import SuiteRun
from qafel_mpi.trace.claim import holds_a_run
from qafel_mpi.trace.merge import write_run
from qafel_mpi.trace_schema import SCHEMA_VERSION
from tests.unit.trace.test_claim import taken_elsewhere
from tests.unit.trace.test_reader import held_open_for_writing


def finished(run: SuiteRun, comm: object = None) -> RunSummary:
    """What stands for a run: a trace that says so."""
    with h5py.File(run.out, "w") as file:
        file.attrs.update(
            {
                "schema_version": SCHEMA_VERSION,
                "experiment": run.experiment,
                "outcome": "finished",
                "seconds": 1.0,
            }
        )
    return RunSummary(outcome="finished")


def go(folder: Path, drive: Callable[..., RunSummary] = finished) -> suite.SuiteResult:
    return suite.run_suite("digits", [0], folder, [], None, drive=drive)


def test_a_run_of_another_process_is_left_to_it(tmp_path: Path) -> None:
    other = taken_elsewhere(tmp_path / "qafel-seed0.shards")
    result = go(tmp_path)
    assert [run.done for run in result.runs] == [False, True]
    assert f"under way elsewhere: process {other.pid} on " in result.runs[0].outcome
    assert not result.failed
    other.communicate()
    assert all(run.done for run in go(tmp_path).runs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fedbuff-seed0.h5", "qafel-seed0.h5"]


def test_a_run_that_another_process_completed_meanwhile_is_not_made_again(tmp_path: Path) -> None:
    other, driven = taken_elsewhere(tmp_path / "qafel-seed0.shards"), []

    def drive(run: SuiteRun, comm: None) -> RunSummary:
        driven.append(run.variant)
        other.communicate()
        finished(
            SuiteRun(
                "qafel",
                0,
                suite.plan("digits", [0], tmp_path)[0].experiment,
                str(tmp_path / "qafel-seed0.h5"),
            )
        )
        return finished(run)

    assert all(run.done for run in go(tmp_path, drive).runs)
    assert driven == ["fedbuff"]


def test_a_trace_that_is_busy_ends_the_suite_before_anything_is_replaced(tmp_path: Path) -> None:
    go(tmp_path)
    message = r"qafel-seed0\.h5: .*close it there.*leaves the file alone"
    with held_open_for_writing(tmp_path / "qafel-seed0.h5"), pytest.raises(ConfigError, match=message):
        go(tmp_path)


def test_shards_of_another_experiment_are_refused_and_stay(tmp_path: Path) -> None:
    shards = tmp_path / "qafel-seed0.shards"
    write_run(shards, {"ranks": 1, "experiment": suite.plan("digits", [0], tmp_path)[0].experiment})
    before = (shards / "run.json").read_bytes()
    message = r"qafel-seed0\.shards: holds another experiment .*server\.buffer_size is 10 there and 20 here"
    with pytest.raises(ConfigError, match=message):
        suite.run_suite("digits", [0], tmp_path, ["server.buffer_size=20"], None, drive=finished)
    assert (shards / "run.json").read_bytes() == before
    assert all(run.done for run in go(tmp_path).runs)  # its own are its to begin anew
    assert not shards.exists()


def test_shards_that_another_process_leaves_while_the_suite_goes_on_stay_too(tmp_path: Path) -> None:
    shards = tmp_path / "fedbuff-seed0.shards"

    def drive(run: SuiteRun, comm: None) -> RunSummary:
        write_run(shards, {"ranks": 1, "experiment": run.experiment.replace("seed = 0", "seed = 1")})
        return finished(run)

    (failed,) = go(tmp_path, drive).failed
    assert failed.variant == "fedbuff"
    assert "another experiment" in failed.outcome
    assert holds_a_run(shards)


def test_a_damaged_trace_is_kept_beside_the_one_that_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "qafel-seed0.h5"
    for _ in range(2):
        path.write_bytes(b"no trace")
        assert all(run.done for run in go(tmp_path).runs)
    kept = sorted(path.name for path in tmp_path.glob("*.damaged*"))
    assert kept == ["qafel-seed0.h5.damaged", "qafel-seed0.h5.damaged-2"]
    assert path.with_name(kept[0]).read_bytes() == b"no trace"
