"""docs/what-if.md says what happens when something goes wrong: the same is done here, and must happen.

What is not here is in test_ends.py (exceptions, warnings of a batch system, one process) and test_slurm.py.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import psutil
import pytest

from tests.support import ROOT, mpirun
from tests.system.namespaces import launcher

COMMAND = shutil.which("qafel-mpi", path=str(Path(sys.executable).parent)) or "qafel-mpi"
# Idle clients: what is interrupted is a run, not a machine at its limit.
ENDLESS = (
    "--set",
    "stop.accuracy=1.0",
    "--set",
    "stop.uploads=100000000",
    "--set",
    "client.pause_seconds=0.02",
)
SOON = ("--set", "trace.flush_seconds=0.1", "--out", "a.h5")
PAGE = (ROOT / "docs/what-if.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.skipif(launcher() != "prrte", reason="needs Open MPI 5, which the page is about")


def row(what: str) -> list[str]:
    """The cells of the page's row that begins with these words: what, what happens, exit code, trace, next."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {what}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def begin(folder: Path, *words: str, ranks: int = 2) -> subprocess.Popen[str]:
    """A run that has no end of its own, once it goes on."""
    process = subprocess.Popen(
        [mpirun(), "-n", str(ranks), COMMAND, "run", "digits", *ENDLESS, *SOON, *words],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"MPIEXEC_TIMEOUT": "110"},
    )  # fmt: skip
    until(lambda: any(folder.glob("a.shards/updates*")) or process.poll() is not None)
    time.sleep(0.3)  # a flush or two
    assert process.poll() is None, process.communicate()
    return process


def until(ready: Callable[[], bool], limit_s: float = 60) -> None:
    begun_s = time.monotonic()
    while not ready():
        assert time.monotonic() - begun_s < limit_s
        time.sleep(0.05)


def rank(process: subprocess.Popen[str], number: int) -> psutil.Process:
    inside = psutil.Process(process.pid).children(recursive=True)
    (found,) = [p for p in inside if p.environ().get("PMIX_RANK") == str(number) and COMMAND in p.cmdline()]
    return found


def outcome(folder: Path) -> str:
    with h5py.File(folder / "a.h5", locking=False) as trace:
        assert len(trace["updates"]) > 0
        return str(trace.attrs["outcome"])


def merged(folder: Path) -> str:
    assert not (folder / "a.h5").exists()
    done = subprocess.run(
        [COMMAND, "merge", "a.shards"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return outcome(folder)


@pytest.mark.parametrize(
    ("what", "act"),
    [
        ("A client is killed", lambda process: rank(process, 1).kill()),
        ("Rank 0, the server, is killed", lambda process: rank(process, 0).kill()),
    ],
)
def test_a_killed_rank_ends_the_job_and_its_rows_can_be_merged(what, act, tmp_path):
    process = begin(tmp_path)
    ranks = psutil.Process(process.pid).children(recursive=True)
    act(process)
    process.communicate(timeout=30)
    assert str(process.returncode) == row(what)[2]
    psutil.wait_procs(ranks, timeout=30)  # merge refuses a folder that somebody still writes to
    assert merged(tmp_path).startswith("failed")


@pytest.mark.parametrize(
    ("what", "number"), [("Ctrl-C once at mpirun", signal.SIGINT), ("SIGTERM to mpirun", signal.SIGTERM)]
)
def test_mpirun_that_is_interrupted_leaves_at_once_and_the_trace_follows(what, number, tmp_path):
    process = begin(tmp_path)
    ranks = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)
    stdout, _ = process.communicate(timeout=30)
    assert str(process.returncode) == row(what)[2]
    psutil.wait_procs(ranks, timeout=30)
    assert stdout == ""
    found = outcome(tmp_path) if (tmp_path / "a.h5").exists() else merged(tmp_path)
    assert found.startswith(("interrupted", "failed"))


def test_a_frozen_client_holds_up_the_end_alone_and_rank_0_says_so(tmp_path):
    patience = ("--set", "transport.patience_seconds=1", "--set", "stop.seconds=5")
    process = begin(tmp_path, *patience, ranks=3)
    frozen = rank(process, 2)
    frozen.suspend()
    assert process.stderr is not None
    said = next(line for line in process.stderr if "waits for" in line)
    assert re.search(r"rank 0 on \S+ waits for the last messages of rank 2", said)
    frozen.resume()
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert outcome(tmp_path) == "finished"


def test_a_killed_mpirun_takes_its_ranks_with_it(tmp_path):
    process = begin(tmp_path)
    ranks = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate(timeout=30)
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert alive == []
    assert row("mpirun itself is killed")[2] == str(128 - process.returncode)  # as a shell says it
    assert merged(tmp_path).startswith("failed")
