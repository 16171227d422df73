"""The tests' own judges: a run that tested nothing, or not on every rank, must not pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

HEADER = "import pytest\nfrom mpi4py import MPI\nWORLD = MPI.COMM_WORLD\n"


def run(module: str, *arguments: str | Path, ci: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | (
        {"CI": "true"} if ci else {}
    )
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def write(tmp_path: Path):
    def write(source: str) -> Path:
        path = tmp_path / "test_made_up.py"
        path.write_text(HEADER + source)
        return path

    return write


def test_mpi_runner_passes_what_ran_at_one_size_at_least(write) -> None:
    path = write(
        "@pytest.mark.mpi\ndef test_any(): assert WORLD.allreduce(1) == WORLD.size\n"
        "@pytest.mark.mpi(min_size=2)\ndef test_two(mpi_tmp_path): assert WORLD.size == 2 and mpi_tmp_path.exists()\n"
        "@pytest.mark.mpi(max_size=1)\ndef test_one(): assert WORLD.size == 1\n"
        "def test_excused(): pytest.skip('needs a GPU')\n"
    )
    done = run("tests.run_mpi", "--sizes", "1,2", "-p", "tests.conftest", path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "4 passed, 0 failed"


def test_mpi_runner_fails_where_nothing_was_collected(write) -> None:
    done = run("tests.run_mpi", "--sizes", "1", write(""))
    assert done.returncode == 1
    assert "no tests ran" in done.stdout


def test_mpi_runner_shows_what_rank_0_did_not_see_and_what_never_ran(write) -> None:
    path = write(
        "def test_lone(): assert WORLD.rank != 1\n"
        "def test_next(): WORLD.Barrier()\n"
        "@pytest.mark.mpi(min_size=3)\ndef test_three(): pass\n"
    )
    done = run("tests.run_mpi", "--sizes", "2", path)
    assert done.returncode == 1
    assert "test_made_up.py::test_lone, 2 ranks, seen by: 1" in done.stdout
    assert "test_made_up.py::test_three: Test requires 3 MPI processes" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 passed, 2 failed"


def test_mpi_runner_ends_a_test_that_one_rank_left(write) -> None:
    path = write("def test_stuck():\n    assert WORLD.rank != 1\n    WORLD.Barrier()\n")
    done = run("tests.run_mpi", "--sizes", "2", "--grace", "1", path)
    assert done.returncode == 1
    assert "test_made_up.py::test_stuck; the other ranks did not end it" in done.stdout


def test_mpi_runner_shows_where_a_job_hung(write) -> None:
    path = write("import time\ndef test_hang():\n    if WORLD.rank == 0: time.sleep(100)\n")
    done = run("tests.run_mpi", "--sizes", "2", "--limit", "12", path)
    assert done.returncode == 1
    assert "line 6 in test_hang" in done.stdout


@pytest.mark.parametrize("ci", [False, True])
def test_strict_skips_fail_on_what_is_no_excuse(tmp_path: Path, ci: bool) -> None:
    reasons = ["needs a GPU", "needs chromium", "not today"]
    for number, reason in enumerate(reasons):
        source = f"import pytest\ndef test_x(): pytest.skip({reason!r})\n"
        (tmp_path / f"test_x{number}.py").write_text(source)
        source = f"import pytest\npytest.skip({reason!r}, allow_module_level=True)\n"
        (tmp_path / f"test_y{number}.py").write_text(source)
    options = ("-p", "tests.conftest", "--strict-skips", "--continue-on-collection-errors", "--rootdir", ROOT)
    done = run("pytest", *options, tmp_path, ci=ci)
    excused = 1 if ci else 2
    for number, reason in enumerate(reasons):
        assert (f"unexpected skip: {reason}" in done.stdout) is (number >= excused)
    assert f"{3 - excused} failed, {2 * excused} skipped, {3 - excused} error" in done.stdout
