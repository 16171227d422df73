"""The command as one process of a job: what rank 0 tells, how a job ends, and ranks that can't start."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from qafel_mpi.commands import process
from qafel_mpi.commands.process import AllLeave, all_ranks_end, from_rank_0
from qafel_mpi.config_text import ConfigError
from qafel_mpi.transport.backoff import WaitedTooLongError
from tests.support import ROOT

COMMAND = str(Path(sys.executable).with_name("qafel-mpi"))
HYDRA = {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MPI4PY_LIBMPI": "/none/libmpi.so"}


def under_hydra(*words: str, **more: str) -> tuple[str, int, bytes]:
    """stderr, exit code, and what a rank of MPICH's mpirun has said to it on the socket that it was given."""
    ours, its = socket.socketpair()
    with ours, its:
        plain = {
            k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMI", "SLURM_", "MPI_LOCAL"))
        }
        environment = plain | HYDRA | {"PMI_FD": str(its.fileno())} | more
        done = subprocess.run(
            words, env=environment, pass_fds=[its.fileno()], capture_output=True, text=True, timeout=60
        )
        its.close()
        return done.stderr, done.returncode, ours.recv(1000)


def test_a_rank_without_an_mpi_library_names_its_host_and_ends_the_job():
    said, code, told = under_hydra(COMMAND, "run", "digits")
    assert (
        said.count(f"rank 0 on {socket.gethostname()}: mpi4py finds no MPI library here (/none/libmpi.so")
        == 1
    )
    assert "Traceback" not in said
    assert (code, told) == (2, b"cmd=abort exitcode=2\n")


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("no-such-program", "no no-such-program on the PATH of this host"),
        ("false", "does not start on this host"),
    ],
)
def test_a_host_where_the_program_does_not_start_is_named_by_its_first_rank_which_ends_the_job(program, says):
    said, code, told = under_hydra("sh", str(ROOT / "jobs/checked.sh"), program)
    assert said.startswith(f"{socket.gethostname()}: ")
    assert says in said
    assert (code, told) == (2, b"cmd=abort exitcode=2\n")


def test_the_other_ranks_of_such_a_host_say_nothing(tmp_path):
    (tmp_path / "sleep").write_text("#!/bin/sh\n")  # they wait for the first rank to end them: not here
    (tmp_path / "sleep").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    said, code, _ = under_hydra(
        "sh", str(ROOT / "jobs/checked.sh"), "no-such-program", MPI_LOCALRANKID="1", PATH=path
    )
    assert (said, code) == ("", 2)


def test_a_rank_that_leaves_ends_with_its_own_code_though_a_launcher_ends_it_meanwhile():
    """srun sends SIGTERM to the others when the first rank has left with a code other than 0."""
    script = (
        "import atexit, os, signal; from qafel_mpi.commands.process import leave\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGTERM); leave(75)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMI", "SLURM_"))}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0"},
        timeout=60,
    )
    assert done.returncode == 75


def test_a_plan_that_fails_is_said_and_exits_with_2(capsys):
    def plan() -> dict:
        raise ConfigError(["one", "two"])

    with pytest.raises(SystemExit) as exit_:
        from_rank_0(None, plan)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "one\ntwo\n"
    assert from_rank_0(None, lambda: {"a": 1}) == {"a": 1}


def test_a_plan_that_fails_in_any_other_way_ends_with_3_and_says_where(capfd):
    with pytest.raises(AllLeave) as exit_:
        from_rank_0(None, lambda: {"a": 1 // 0})
    assert exit_.value.code == 3
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_failure_says_how_to_find_what_was_recorded(capfd, monkeypatch):
    monkeypatch.setattr(process, "_meeting", process._Meeting())
    process.say_after_a_failure(lambda: "`qafel-mpi merge a.shards` makes a trace of what was recorded")
    with pytest.raises(SystemExit) as exit_, all_ranks_end():
        raise WaitedTooLongError("rank 1 waits for rank 0", 5.0)
    assert exit_.value.code == 3
    assert capfd.readouterr().err == (
        "rank 1 waits for rank 0; transport.watchdog_seconds = 5 allows no more\n"
        "qafel-mpi: `qafel-mpi merge a.shards` makes a trace of what was recorded\n"
    )


def test_what_is_loaded_is_left_alone_by_the_garbage_collector_which_then_goes_on():
    gc.unfreeze()
    process.load(["json"])
    assert gc.get_freeze_count() > 0
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError):
        process.load(["no_such_module_at_all"])
    assert gc.isenabled()
    gc.unfreeze()


@pytest.mark.parametrize("end", [SystemExit(2), AllLeave(3), KeyboardInterrupt()])
def test_in_one_process_an_exit_stays_what_it_is(end):
    with pytest.raises(type(end)) as raised, all_ranks_end():
        raise end
    assert raised.value is end
