"""What hangs ends the job, with one message that says who waits for whom; and what is interrupted ends soon."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import h5py
import psutil
import pytest

from tests.support import mpirun
from tests.system.command import COMMAND, ENDLESS, RANK, own_words, qafel
from tests.system.namespaces import launcher

WATCHED = (
    *ENDLESS,
    "--out",
    "a.h5",
    "--set",
    "transport.watchdog_seconds=5",
    "--set",
    "client.pause_seconds=0.02",
)


def start(
    folder: Path, *words: str, ranks: int, program: tuple[str, ...] = (COMMAND,)
) -> subprocess.Popen[str]:
    """A run of the digits; its ranks are found by `rank`."""
    return subprocess.Popen(
        [*([mpirun(), "-n", str(ranks)] if ranks else []), *program, "run", "digits", *words],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"MPIEXEC_TIMEOUT": "110"},
    )  # fmt: skip


def until_it_says(process: subprocess.Popen[str], what: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if what in line:
            return
    raise AssertionError(f"it ended: {process.wait()}")


def rank(process: subprocess.Popen[str], number: int) -> psutil.Process:
    inside = psutil.Process(process.pid).children(recursive=True)
    variables = ("PMIX_RANK", "PMI_RANK")
    (found,) = [
        p for p in inside
        if COMMAND in p.cmdline() and any(p.environ().get(name) == str(number) for name in variables)
    ]  # fmt: skip
    return found


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code, and what it said."""
    _, stderr = process.communicate(timeout=100)
    return process.returncode, own_words(stderr)


def test_a_rank_in_an_endless_loop_says_where_and_its_job_ends(tmp_path):
    """In code that never comes back, and so polls nothing: the thread beside it, or rank 0, notices."""
    (tmp_path / "program.py").write_text(
        "from qafel_mpi.commands import app, environment, process\n"
        "environment.ready_mpi()\n"
        "from qafel_mpi.drivers.wall.client import WallClient\n"
        "train = WallClient._train\n"
        "def spin():\n"
        "    while True: pass\n"
        "def stuck(self, client, participation, delta, version):\n"
        "    if self.uploads == 5: spin()\n"
        "    return train(self, client, participation, delta, version)\n"
        f"if {RANK} == 2: WallClient._train = stuck\n"
        "app.main()\n"
    )
    process = start(tmp_path, *WATCHED, ranks=3, program=(sys.executable, "program.py"))
    code, said = ended(process)
    assert code in ({3, 9} if launcher() == "hydra" else {3})
    assert re.search(
        r"rank 2 on \S+: has done nothing else for [5-9] s: spin in program.py:\d+, called by stuck in program.py:"
        r"|rank 0 on \S+: rank 2 on \S+ has given no sign for [5-9] s, after 5 updates; rank 0 waits",
        said,
    )
    assert said.count("transport.watchdog_seconds = 5 allows no more") == 1
    assert "qafel-mpi merge" in said
    assert "Traceback" not in said


def test_a_worker_that_lives_and_never_ends_its_training_is_not_waited_for_for_ever(tmp_path):
    """It answers what time it is meanwhile, and that is nothing of what rank 0 waits for."""
    (tmp_path / "program.py").write_text(
        "import time\n"
        "from qafel_mpi.commands import app, environment, process\n"
        "environment.ready_mpi()\n"
        "from qafel_mpi.drivers.virtual.worker import Worker\n"
        "def endless(self, jobs, version):\n"
        "    while True:\n"
        "        self._between_steps()\n"
        "        time.sleep(0.01)\n"
        f"if {RANK} == 2: Worker._train = endless\n"
        "app.main()\n"
    )
    settings = (
        "clock.kind=virtual",
        "clock.concurrency=60",
        "client.together=1",
        "transport.watchdog_seconds=5",
    )
    words = [word for setting in settings for word in ("--set", setting)]
    where = ("--out", "a.h5")
    process = start(tmp_path, *ENDLESS, *words, *where, ranks=3, program=(sys.executable, "program.py"))
    code, said = ended(process)
    assert code in ({3, 9} if launcher() == "hydra" else {3})
    assert re.search(
        r"rank 0 on \S+ waits for the update of client \d+, participation \d+, from rank 2 \(\d+ s so far\); "
        r"transport.watchdog_seconds = 5 allows no more",
        said,
    )


def test_clients_end_the_job_of_a_frozen_rank_0(tmp_path):
    process = start(tmp_path, *WATCHED, ranks=3)
    until_it_says(process, "uploads")
    rank(process, 0).suspend()
    code, said = ended(process)
    assert code in ({3, 9} if launcher() == "hydra" else {3})
    assert re.search(
        r"rank 1 on \S+: rank 1 on \S+ waits for rank 0 to take an upload \(\d+ s so far\); transport.watchdog",
        said,
    )
    assert re.search(r"`qafel-mpi merge \S+a.shards` makes a trace of what was recorded", said)


def test_a_second_ctrl_c_ends_the_job_though_a_client_is_stuck(tmp_path):
    process = start(tmp_path, *ENDLESS, "--out", "a.h5", ranks=3)
    until_it_says(process, "uploads")
    server = rank(process, 0)
    rank(process, 2).suspend()
    server.send_signal(signal.SIGINT)
    until_it_says(process, "SIGINT: the run ends; if no summary follows: `qafel-mpi merge ")
    time.sleep(1)  # in which it would have ended, did it not wait
    assert process.poll() is None, "it waits for the client"
    server.send_signal(signal.SIGINT)
    code, said = ended(process)
    assert code in ({130, 9} if launcher() == "hydra" else {130})
    assert said.count("interrupted again: the job ends at once; `qafel-mpi merge ") == 1
    done = qafel("merge", "a.shards", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(launcher() != "prrte", reason="needs Open MPI 5, which is known to pass nothing on")
def test_ctrl_c_at_mpirun_in_a_terminal_is_answered_there_by_how_to_find_what_is_recorded(tmp_path):
    ours, terminal = pty.openpty()
    process = subprocess.Popen(
        [mpirun(), "-n", "3", COMMAND, "run", "digits", *ENDLESS, "--out", "a.h5"],
        cwd=tmp_path, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), env=os.environ | {"MPIEXEC_TIMEOUT": "110"},
    )  # fmt: skip
    os.close(terminal)
    said = b""
    with suppress(OSError):  # of the last process that had the terminal
        while chunk := os.read(ours, 10_000):
            if b"uploads" in chunk and b"uploads" not in said:
                os.write(ours, b"\x03")
            said += chunk
    process.wait(60)
    os.close(ours)
    assert b"qafel-mpi: SIGTERM: the run ends; if no summary follows: `qafel-mpi merge " in said


def test_rank_0_that_can_not_plan_ends_the_job_on_all_ranks(tmp_path):
    """Whatever the planning raises."""
    (tmp_path / "program.py").write_text(
        "from qafel_mpi.commands import app, environment, process, run\n"
        "environment.ready_mpi()\n"
        "def boom(*_, **__): raise PermissionError(13, 'boom')\n"
        "run.resolve = boom\n"
        "app.main()\n"
    )
    done = qafel("run", "digits", ranks=3, cwd=tmp_path, command=(sys.executable, "program.py"))
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("PermissionError: [Errno 13] boom") == 1
    assert "MPI_ABORT" not in done.stderr


def test_an_exit_in_somebody_elses_code_on_one_rank_ends_the_job(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import sys, torch\n"
        "class Leaves(torch.nn.Linear):\n"
        "    passes = 0\n"
        "    def forward(self, x):\n"
        "        Leaves.passes += 1\n"
        f"        if {RANK} == 1 and Leaves.passes > 200: sys.exit('that is all')\n"
        "        return super().forward(x.flatten(1))\n"
        "def make(config, shape, classes): return Leaves(64, classes)\n"
    )
    env = {"PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))}
    done = qafel("run", "digits", *ENDLESS, "--set", "task.model=mine:make", ranks=3, cwd=tmp_path, env=env)
    assert done.returncode in ({3, 9} if launcher() == "hydra" else {3}), done.stderr
    assert done.stderr.count("SystemExit: that is all") == 1


@pytest.mark.parametrize("ranks", [0, 3])
def test_a_start_up_is_interrupted_at_once(tmp_path, ranks):
    """Rank 0 has only just begun: there is nothing to keep, and nobody is waited for."""
    process = start(tmp_path, *ENDLESS, "--out", "a.h5", ranks=ranks)
    until_it_says(process, "trace: ")
    process.send_signal(signal.SIGUSR1)  # mpirun passes it on
    code, said = ended(process)
    assert code in ({75, 9} if launcher() == "hydra" else {75})
    assert said.count("SIGUSR1 before the run began: nothing is recorded") == 1
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize("ranks", [0, 2])
def test_a_signal_is_seen_during_a_long_local_training(tmp_path, monkeypatch, ranks):
    """A hundred steps of half a second each."""
    (tmp_path / "mine.py").write_text(
        "import os, time, torch\n"
        "class Slow(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        if self.training and os.path.exists('slow'): time.sleep(0.5)\n"
        "        return super().forward(x.flatten(1))\n"
        "def make(config, shape, classes): return Slow(64, classes)\n"
    )
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    )
    one = ("client.local_epochs=100", "client.together=1", "task.model=mine:make", "clock.kind=virtual")
    words = [word for setting in one for word in ("--set", setting)]
    process = start(tmp_path, *ENDLESS, "--out", "a.h5", *words, ranks=ranks)
    until_it_says(process, "uploads")
    (tmp_path / "slow").touch()
    time.sleep(1.5)  # until a slow training is under way: its steps take half a second each
    process.send_signal(signal.SIGUSR1)
    begun_s = time.monotonic()
    code, said = ended(process)
    assert code == 75, said
    assert time.monotonic() - begun_s < 45, "a training takes longer"
    with h5py.File(tmp_path / "a.h5") as trace:
        assert trace.attrs["outcome"] == "interrupted"
