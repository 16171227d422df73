"""How runs end: failures on some ranks and on all, interrupts, and what a killed run leaves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest

from qafel_mpi.trace_schema import NOT_ENDED
from tests.support import mpirun
from tests.system.command import COMMAND, ENDLESS, RANK, SHORT, SUITE, begin, qafel
from tests.system.namespaces import launcher


def write_dataset(folder: Path, body: str) -> dict[str, str]:
    """A data set of the user's own that runs `body` first; returns the environment that finds it."""
    (folder / "mine.py").write_text(
        "from qafel_mpi.tasks import datasets\n"
        "from qafel_mpi.tasks.errors import DataError\n\n"
        f"def load(config, data_dir, clients, seed):\n    {body}\n"
        "    return datasets.digits(config, data_dir, clients, seed)\n"
    )
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


OWN = ("--set", "task.dataset=mine:load")


def aborted(code: int) -> set[int]:
    """mpirun's exit codes after MPI_Abort(code): MPICH's may return that of a rank which it has killed meanwhile."""
    return {code, 9} if launcher() == "hydra" else {code}


def test_an_exception_on_one_rank_ends_the_job_with_one_traceback(tmp_path):
    """An error of the program: rank 2 has a client that can't be made."""
    (tmp_path / "program.py").write_text(
        "from qafel_mpi.commands import app, environment, process\n"
        "environment.ready_mpi()\n"
        f"if {RANK} == 2:\n"
        "    from qafel_mpi.drivers.wall import run\n"
        "    def boom(*_): raise RuntimeError('boom')\n"
        "    run.WallClient = boom\n"
        "app.main()\n"
    )
    begun = time.monotonic()
    program = (sys.executable, "program.py")
    done = qafel("run", "digits", *ENDLESS, ranks=4, cwd=tmp_path, command=program)
    assert done.returncode in aborted(3)
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert "RuntimeError: boom" in done.stderr
    assert f"rank 2 on {socket.gethostname()}: failed" in done.stderr
    assert time.monotonic() - begun < 60, "it ended by itself"


def test_what_code_of_ones_own_raises_on_all_ranks_is_one_message(tmp_path):
    env = write_dataset(tmp_path, "pass")
    (tmp_path / "mine.py").write_text("def make(config, shape, classes):\n    return {}['layers']\n")
    done = qafel("run", "digits", "--set", "task.model=mine:make", ranks=3, cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert done.stderr.count("rank 0 on ") == 1
    assert f"task.model = 'mine:make': KeyError: 'layers' ({tmp_path}/mine.py, line 2)\n" in done.stderr
    assert done.stderr.count("KeyError") == 1
    assert "Traceback" not in done.stderr


def test_what_one_rank_can_not_read_is_one_message_with_rank_and_host(tmp_path):
    """A model of one's own is made on every rank; a data set is loaded once a host, see test_hosts.py."""
    env = write_dataset(tmp_path, "pass")
    (tmp_path / "mine.py").write_text(
        "from qafel_mpi.tasks.errors import DataError\n\n"
        "def make(config, shape, classes):\n"
        f"    if {RANK} == 1: raise DataError('/data/x.bin: not here')\n"
        "    import torch\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))\n"
    )
    done = qafel("run", "digits", "--set", "task.model=mine:make", ranks=3, cwd=tmp_path, env=env)
    assert done.returncode in aborted(2)
    assert f"rank 1 on {socket.gethostname()}: " in done.stderr
    assert "/data/x.bin: not here" in done.stderr
    assert done.stderr.count("not here") == 1
    assert "Traceback" not in done.stderr


def test_what_is_wrong_with_the_whole_job_ends_a_suite_with_one_message(tmp_path):
    """Also where a variant leaves ranks out: they hear of it from rank 0."""
    (tmp_path / "s.toml").write_text(SUITE + "[variants.coarse.transport]\nranks = 2\n")
    env = write_dataset(tmp_path, "raise DataError('/data/x.bin: not here')")
    done = qafel("suite", "s.toml", "--seeds", "0-1", *OWN, "--out", "t", ranks=3, cwd=tmp_path, env=env)
    assert done.returncode == 2, done.stderr
    where = f" ({tmp_path}/mine.py, line 5)"
    assert done.stderr.count(f"/data/x.bin: not here{where}; the suite ends at coarse, seed 0\n") == 1
    assert done.stderr.count("not here") == 1
    assert "Traceback" not in done.stderr


def test_data_missing_everywhere_is_one_message(tmp_path):
    nowhere = ("--data-dir", str(tmp_path / "nowhere"))
    done = qafel("run", "mushrooms", *nowhere, ranks=3, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("data fetch mushrooms") == 1
    assert "Traceback" not in done.stderr
    assert "MPI_ABORT" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_an_interrupted_run_keeps_its_trace_and_exits_with_75(number, tmp_path):
    process = begin("--out", "a.h5", ranks=0, cwd=tmp_path)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert "outcome          interrupted" in stdout
    with h5py.File(tmp_path / "a.h5") as trace:
        assert str(trace.attrs["outcome"]).startswith("interrupted")


def test_an_interrupted_mpirun_has_named_the_trace_that_is_left(tmp_path):
    """Open MPI's passes nothing on that the ranks say after the signal, and ends with 1: docs/what-if.md says so."""
    command = [mpirun(), "-n", "3", COMMAND, "run", "digits", *ENDLESS]
    with (tmp_path / "said").open("w+") as said:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=said, stderr=said)
        deadline = time.monotonic() + 100
        while "uploads" not in (tmp_path / "said").read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(1.5)  # rows are flushed every second
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) in (1, 75)
    trace = tmp_path / "runs/digits-qafel-seed0.h5"
    shards = trace.with_suffix(".shards")
    assert f"trace: {trace}; " in (tmp_path / "said").read_text()
    time.sleep(2)  # the ranks have ended by then
    if not trace.exists():
        assert qafel("merge", str(shards), cwd=tmp_path).returncode == 0
    with h5py.File(trace) as file:
        assert len(file["updates"]) > 0


def test_a_batch_systems_warning_reaches_the_ranks_through_mpirun(tmp_path):
    process = begin("--out", "a.h5", ranks=3, cwd=tmp_path)
    process.send_signal(signal.SIGUSR1)  # as sbatch --signal=B:USR1 with a trap
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert "outcome          interrupted" in stdout


def test_what_a_killed_run_had_written_can_be_merged(tmp_path):
    process = begin("--out", "a.h5", "--set", "trace.flush_seconds=0", ranks=0, cwd=tmp_path)
    # Some hundred rows: the file is there before the first block is.
    while not any(path.stat().st_size > 20_000 for path in tmp_path.glob("a.shards/updates.*")):
        assert process.poll() is None, "it goes on until it is killed"
    process.kill()
    process.communicate(timeout=60)
    assert not (tmp_path / "a.h5").exists()
    again = qafel("run", "digits", *SHORT, "--out", "a.h5", cwd=tmp_path)
    assert again.returncode == 2
    assert "qafel-mpi merge" in again.stderr
    done = qafel("merge", "a.shards", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "a.h5") as trace:
        assert len(trace["updates"]) > 0
        assert str(trace.attrs["outcome"]).startswith("failed")
        (host,) = json.loads(trace.attrs["hosts"])
        assert (host["host"], host["ranks"]) == (socket.gethostname(), 1)
        assert host["cpu"] == trace.attrs["cpu"]
        (rank,) = trace["ranks"]
        assert (rank["host"].decode(), rank["device"], rank["version"]) == (host["host"], b"cpu", NOT_ENDED)
    again = qafel("run", "digits", *SHORT, "--out", "a.h5", cwd=tmp_path)
    assert (again.returncode, again.stderr.splitlines()[-1]) == (
        2,
        "--out a.h5: it exists already; --overwrite replaces it",
    )
