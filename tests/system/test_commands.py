"""The commands as a user types them: what is said, where, how often, and the exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import h5py
import pytest

from qafel_mpi import experiments
from tests.system.command import own_words, qafel


@pytest.mark.parametrize("command", ["", "run", "suite", "list", "info", "merge", "data", "data fetch"])
def test_every_command_has_help_with_examples(command, tmp_path):
    done = qafel(*command.split(), "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "Usage: qafel-mpi" in done.stdout
    assert "Example" in done.stdout or command == "data"
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list"], ["run"], ["--version"]])
def test_what_needs_no_numbers_loads_no_numbers(arguments):
    script = (
        "import sys; sys.argv = ['qafel-mpi', *sys.argv[1:]]\n"
        "from qafel_mpi.commands.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'mpi4py', 'h5py', 'numba', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ),  # without what an MPI library that the tests have loaded puts beside it
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_run_imports_all_that_is_heavy_before_mpi_and_nothing_that_it_does_not_use(tmp_path):
    script = (
        "import sys; from qafel_mpi.commands import process, replay; process.load(replay.WITHOUT_TORCH)\n"
        "early = bool({'torch', 'numba'} & set(sys.modules))  # a replay's: it has variables to set first\n"
        "process.load()\n"
        "early |= 'mpi4py.MPI' in sys.modules\n"
        "heavy = {'torch', 'numba', 'h5py'} <= set(sys.modules)\n"
        "from qafel_mpi.commands.app import main\n"
        "sys.argv = 'qafel-mpi run digits --set clock.kind=virtual --set stop.steps=1 --overwrite'.split()\n"
        "sys.argv += ['--out', 'a.h5']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(early, heavy, sorted({'sympy', 'scipy.linalg', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    for _ in range(2):  # who compiles kernels loads SciPy's algebra; the second run finds them kept
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            env=dict(os.environ),
        )
    assert done.stdout.splitlines()[-1] == "False True []", done.stderr


def test_the_version_is_the_packages(tmp_path):
    from importlib.metadata import version

    assert qafel("--version", cwd=tmp_path).stdout == f"qafel-mpi {version('qafel-mpi')}\n"


def test_list_has_a_line_for_every_experiment_and_says_what_needs_data(tmp_path):
    def lines() -> dict[str, str]:
        done = qafel("list", cwd=tmp_path, env={"QAFEL_DATA_DIR": str(tmp_path)})
        return {line.split()[0]: line for line in done.stdout.splitlines()}

    before = lines()
    assert list(before) == experiments.names()
    assert all(len(line.split()) > 3 for line in before.values())
    assert "[needs data: mushrooms]" in before["mushrooms"]
    assert "needs data" not in before["digits"]
    (tmp_path / "mushrooms.libsvm").touch()
    assert "needs data" not in lines()["mushrooms"]


WRONG = [
    (["run", "digits", "--sett", "x=1"], "No such option"),
    (["rum", "digits"], "No such command"),
    (["run", "digits", "--seed", "one"], "--seed"),
    (["run", "digts"], "did you mean digits?"),
    (["run", "no/such.toml"], "no/such.toml: No such file or directory"),
    (["run", "digits", "--set", "server.buffer_sise=3"],
     "--set server.buffer_sise: unknown key; did you mean buffer_size?"),
    (["run", "digits", "--set", "uplink.bits=99"], "it takes a whole number >= 1 and <= 32"),
    (["run", "digits", "--out", "trace.csv"], "a trace is an HDF5 file; call it trace.h5"),
    (["merge", "no-such-folder"], "no-such-folder"),
    (["data", "fetch", "imagenet"], "data set imagenet: unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), WRONG)
def test_a_usage_error_is_one_message_and_exit_code_2(arguments, says, tmp_path):
    done = qafel(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count(says) == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not any(tmp_path.iterdir()), "nothing was begun"


@pytest.mark.parametrize(("arguments", "says"), [WRONG[i] for i in (0, 4, 5, 7)])
def test_under_mpirun_a_usage_error_is_still_one_message(arguments, says, tmp_path):
    done = qafel(*arguments, ranks=3, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count(says) == 1
    assert "MPI_ABORT" not in done.stderr
    assert "Traceback" not in done.stderr


def test_under_mpirun_lists_and_help_come_once(tmp_path):
    assert qafel("list", ranks=3, cwd=tmp_path).stdout.splitlines()[0].startswith(experiments.names()[0])
    assert len(qafel("list", ranks=3, cwd=tmp_path).stdout.splitlines()) == len(experiments.names())
    assert qafel("run", "--help", ranks=3, cwd=tmp_path).stdout.count("Usage:") == 1


def test_a_mistake_in_a_file_is_named_with_the_file(tmp_path):
    (tmp_path / "mine.toml").write_text("[server]\nbuffer_sise = 3\n[stop]\nuploads = 1\n")
    done = qafel("run", "mine.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "experiment mine.toml: server.buffer_sise: unknown key; did you mean buffer_size?\n"


def test_the_wall_clock_in_one_process_says_what_to_do_instead(tmp_path):
    done = qafel("run", "digits", "--set", "clock.kind=wall", cwd=tmp_path)
    assert done.returncode == 2
    assert "mpirun -n 4 qafel-mpi run digits" in done.stderr
    assert "virtual clock" in done.stderr


def test_a_round_of_more_clients_than_ranks_is_refused_once(tmp_path):
    settings = ("--set", "algorithm=fedavg", "--set", "task.clients=ranks")
    done = qafel("run", "digits", *settings, ranks=3, cwd=tmp_path)
    assert done.returncode == 2
    assert own_words(done.stderr).count("it would wait for ever") == 1
    assert "Traceback" not in done.stderr


def test_one_client_a_rank_can_t_be_simulated_and_the_message_says_how_to_run_it(tmp_path):
    done = qafel("run", "progress", cwd=tmp_path)
    assert done.returncode == 2
    assert "mpirun -n 4 qafel-mpi run" in done.stderr
    assert "--set clock.kind=virtual --set task.clients=100" in done.stderr


def test_info_shows_every_rank(tmp_path):
    done = qafel("info", ranks=3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert "host" in header
    assert [row.split()[0] for row in rows] == ["0", "1", "2"]


def test_info_as_json_without_mpirun(tmp_path):
    about = json.loads(qafel("info", "--json", cwd=tmp_path).stdout)
    (rank,) = about["ranks"]
    assert rank["host"] == socket.gethostname()
    assert rank["thread level"] == "serialized"  # what the progress thread needs, and no more
    assert about["versions"]["mpi4py"]


def test_a_trace_and_info_say_the_same_of_where_they_were_made(tmp_path):
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_RESTART_COUNT": "1",
        "OMPI_MCA_btl": "self,tcp",
    }
    about = json.loads(qafel("info", "--json", cwd=tmp_path, env=job).stdout)
    done = qafel("run", "digits", "--set", "stop.uploads=10", "--out", "a.h5", cwd=tmp_path, env=job)
    assert done.returncode == 0, done.stderr
    # info lists ranks; the trace has the table /ranks, with each one's host and device.
    own = {"ranks", "command_line", "started"}
    with h5py.File(tmp_path / "a.h5") as trace:
        for name in about.keys() - own:
            stored = trace.attrs[name]
            assert (json.loads(stored) if isinstance(about[name], dict | list) else stored) == about[name], (
                name
            )
        assert trace["ranks"]["host"][0].decode() == about["ranks"][0]["host"] == about["hosts"][0]["host"]
    assert {name: about["scheduler"][name] for name in job if name.startswith("SLURM_")} == {
        name: value for name, value in job.items() if name.startswith("SLURM_")
    }
    assert about["interconnect"]["settings"]["OMPI_MCA_btl"] == "self,tcp"


def test_a_download_without_internet_says_what_to_do(tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        mirror = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        done = qafel("data", "fetch", "mushrooms", "--to", "d", "--mirror", mirror, cwd=tmp_path)
    assert done.returncode == 2
    assert "Is there an internet connection?" in done.stderr
    assert "Traceback" not in done.stderr
