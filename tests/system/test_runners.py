"""The tests' own judges: a run that tested nothing, or not on every rank, must not pass."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parts import PARTS
from tests.support import ROOT

HEADER = "import pytest\nfrom mpi4py import MPI\nWORLD = MPI.COMM_WORLD\n"


def run(module: str, *arguments: str | Path, ci: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | (
        {"CI": "true"} if ci else {}
    )
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


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
    *_, missing, failed, total = done.stdout.splitlines()
    assert "test_made_up.py::test_three: Test requires 3 MPI processes" in missing
    assert failed.startswith("FAILED ")
    assert "test_made_up.py::test_lone, 2 ranks - assert 1 != 1" in failed
    assert total == "1 passed, 2 failed"


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


def test_every_file_of_tests_is_in_one_part() -> None:
    seen: list[str] = []
    for part in PARTS:
        left_out = [word.removeprefix("--ignore=") for word in part.words() if word.startswith("--ignore=")]
        for path in part.paths:
            files = [ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("test_*.py")
            names = [str(file.relative_to(ROOT)) for file in files]
            seen += [n for n in names if not any(n == out or n.startswith(f"{out}/") for out in left_out)]
    wanted = [str(file.relative_to(ROOT)) for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(seen) == sorted(name for name in wanted if not name.startswith("tests/mpi/"))
    assert [part.name for part in PARTS if part.command == ("tests.run_mpi",)] == ["mpi"]
    assert all((ROOT / path).exists() for part in PARTS for path in part.paths)


# Says who runs when it begins, and goes on until a file is there.
MEMBER = """
import sys, time
from pathlib import Path
running, name, until, code = Path("running"), sys.argv[1], sys.argv[2], int(sys.argv[3])
(running / name).touch()
print(name, "beside", *sorted(path.name for path in running.iterdir() if path.name != name), flush=True)
Path(f"said-{name}").touch()
while until and not Path(until).exists():
    time.sleep(0.01)
(running / name).unlink()
Path(f"after-{name}").touch()
sys.exit(code)
"""
PROGRAM = """
from pathlib import Path
from tests import parts

def part(name, until="", code=0, alone=False):
    return parts.Part(name, command=("member", name, until, str(code)), alone=alone)

parts.ROOT = Path.cwd()
parts.warm_up = lambda: None
"""


@pytest.fixture
def begin(tmp_path: Path):
    """Start parts that are made up, each a call of `part` above."""

    def begin(*calls: str, jobs: int = 2) -> subprocess.Popen[str]:
        (tmp_path / "member.py").write_text(MEMBER)
        (tmp_path / "running").mkdir()
        program = f"{PROGRAM}parts.PARTS = [{', '.join(calls)}]\nparts.main()\n"
        return subprocess.Popen(
            [sys.executable, "-c", program, "--jobs", str(jobs)], cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        )  # fmt: skip

    return begin


def test_parts_run_side_by_side_and_some_alone(begin) -> None:
    process = begin(
        "part('long', until='after-third')",
        "part('alone', alone=True)",
        "part('second', until='running/long')",
        "part('third')",
    )
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert {"third beside long", "alone beside"} <= set(said.splitlines())
    assert said.count("passed in") == 8, "where a part is shown, and at the end"


def test_a_part_that_fails_is_the_last_that_begins(begin) -> None:
    process = begin(
        "part('good')", "part('bad', code=3)", "part('late')", "part('alone', alone=True)", jobs=1
    )
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "good: passed in" in said
    assert "bad: FAILED with 3 in" in said
    assert "late beside" not in said
    assert "not begun, after a failure: late, alone" in said
    summary = said[said.rindex("\n====\n") :]
    assert "\n    bad beside" in summary, "the last lines of a part that names no failed test"
    assert "good beside" not in summary


def test_the_summary_names_the_tests_that_failed(begin, tmp_path) -> None:
    (tmp_path / "test_wrong.py").write_text("def test_wrong(): assert 1 == 2\ndef test_right(): pass\n")
    process = begin(f"parts.Part('wrong', command=('pytest', '-q', {str(tmp_path)!r}))")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    summary = said[said.rindex("\n====\n") :].splitlines()
    assert [line.strip() for line in summary if "test_" in line] == [
        "FAILED test_wrong.py::test_wrong - assert 1 == 2"
    ]


def test_parts_that_are_interrupted_show_what_they_printed(begin, tmp_path) -> None:
    process = begin("part('stuck', until='never')", "part('late')", jobs=1)
    while not (tmp_path / "said-stuck").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "stuck: interrupted\nstuck beside\n" in said
    assert "KeyboardInterrupt" in said
    assert "late" not in said
