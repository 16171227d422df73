"""The commands as a user types them: what is said, where, how often, and the exit code."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from qafel_analysis.commands.app import app as analysis
from typer.testing import CliRunner

from qafel_mpi import experiments
from qafel_mpi.trace_schema import NOT_ENDED
from tests.no_locks import without_locks
from tests.support import check_against_schema, mpirun
from tests.system.namespaces import launcher
from tests.unit.trace.test_claim import taken_elsewhere

COMMAND = shutil.which("qafel-mpi", path=str(Path(sys.executable).parent)) or "qafel-mpi"
SHORT = ("--set", "stop.uploads=30")
ENDLESS = ("--set", "stop.accuracy=1.0", "--set", "stop.uploads=100000000")
RANK = '__import__("qafel_mpi.commands.launcher").commands.launcher.launcher_rank()'


def qafel(
    *arguments: str, ranks: int = 0, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run qafel-mpi; ranks: 0 without mpirun."""
    launcher = [mpirun(), "-n", str(ranks)] if ranks else []
    environment = os.environ | {"MPIEXEC_TIMEOUT": "110", "COLUMNS": "200"} | (env or {})
    return subprocess.run(
        [*launcher, COMMAND, *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def own_words(stderr: str) -> str:
    """What the command said, without the launcher's own banner between lines of dashes."""
    return re.sub(r"^-{60,}\n.*?^-{60,}\n", "", stderr, flags=re.DOTALL | re.MULTILINE).strip()


# --- help, version, list ----------------------------------------------------------------------------


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
        timeout=60,
        env=dict(os.environ),  # without what an MPI library that the tests have loaded puts beside it
    )
    assert done.stderr.splitlines()[-1] == "[]"


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


# --- usage errors -----------------------------------------------------------------------------------

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


# --- runs -------------------------------------------------------------------------------------------


def test_one_process_runs_on_the_virtual_clock_and_writes_the_trace(tmp_path):
    done = qafel("run", "digits", *SHORT, "--seed", "3", "--out", "runs/a.h5", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    check_against_schema("run", result)
    rows = CliRunner().invoke(analysis, ["table", str(tmp_path / "runs/a.h5"), "--json"])
    check_against_schema("table", json.loads(rows.stdout))
    assert result["outcome"] == "finished"
    assert result["uploads"] == 30
    assert result["virtual_seconds"] > 0
    with h5py.File(tmp_path / "runs/a.h5") as trace:
        assert trace.attrs["driver"] == "virtual"
        assert trace.attrs["seed"] == 3
        assert 'kind = "virtual"' in trace.attrs["experiment"]
    assert not (tmp_path / "runs/a.shards").exists()
    again = qafel("run", "digits", *SHORT, "--out", "runs/a.h5", cwd=tmp_path)
    assert (again.returncode, "--overwrite" in again.stderr) == (2, True)
    more = qafel("run", "digits", *SHORT, "--out", "runs/a.h5", "--overwrite", cwd=tmp_path)
    assert more.returncode == 0
    assert "uploads          30" in more.stdout


def test_two_runs_that_start_together_have_two_names(tmp_path):
    command = [COMMAND, "run", "digits", *SHORT]
    both = [
        subprocess.Popen([*command, *more], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for more in ([], ["--set", "trace.flush_seconds=2"])
    ]
    traces = [re.search(r"^trace +(.*)$", run.communicate(timeout=120)[0], re.MULTILINE) for run in both]
    assert [run.returncode for run in both] == [0, 0]
    names = {Path(found[1]).name for found in traces if found}
    assert names == {"digits-qafel-seed0.h5", "digits-qafel-seed0-2.h5"}
    for name in names:
        with h5py.File(tmp_path / "runs" / name) as file:
            assert len(file["updates"]) == 30
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == sorted(names)


def test_ranks_that_neither_we_nor_mpi_take_for_ranks_are_not_a_run_each(tmp_path):
    """As under a launcher that is not known, with an MPI library that is not its own."""
    command = [COMMAND, "run", "digits", "--set", "stop.uploads=3000"]
    ranks = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert sorted(rank.returncode for rank in ranks) == [0, 2, 2]
    assert sum("runs the same command" in text for text in said) == 2
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["digits-qafel-seed0.h5"]


def test_a_launcher_that_only_mpi_knows_starts_one_run(tmp_path):
    """Its variables are not ours to read: MPI tells the ranks, and rank 0 alone speaks."""
    script = (
        "import qafel_mpi.commands.launcher as launcher; launcher.LAUNCHERS = ()\n"
        "from qafel_mpi.commands.app import main; main()"
    )
    command = [mpirun(), "-n", "3", sys.executable, "-c", script, "run", "digits"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    for more, code in ((SHORT, 0), (["--set", "stop.accuracy=2"], 2)):
        done = subprocess.run(
            [*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code
        assert done.stdout.count("x digest") == (code == 0)
        assert own_words(done.stderr).count("stop.accuracy") == (code == 2)
    with h5py.File(tmp_path / "runs/digits-qafel-seed0.h5") as file:
        assert file.attrs["ranks"] == 3


def test_nothing_around_a_finished_run_fails_it(tmp_path):
    """A reader that has gone, an encoding without our signs, a name that is no text, a disk that can't lock."""
    out = tmp_path / os.fsdecode(b"n\xff.h5")
    environment = os.environ | without_locks(tmp_path, errno.ENOLCK) | {"PYTHONIOENCODING": "ascii"}
    command = [COMMAND, "run", "digits", *SHORT, f"--out={out}"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120
    )
    os.close(writer)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("qafel-mpi: stdout can't be written (Broken pipe); the rest is dropped") == 1
    with h5py.File(out) as file:
        assert len(file["updates"]) == 30
    assert not out.with_suffix(".shards").exists()


def test_a_name_that_another_run_has_is_refused_with_its_process(tmp_path):
    other = taken_elsewhere(tmp_path / "a.shards")
    (tmp_path / "a.shards" / "messages.000000.npys").write_bytes(b"rows")
    for command in (["run", "digits", "--out", "a.h5", "--overwrite"], ["merge", "a.shards"]):
        done = qafel(*command, cwd=tmp_path)
        assert done.returncode == 2
        assert f"process {other.pid} on {socket.gethostname()}" in done.stderr
    other.communicate()
    assert (tmp_path / "a.shards" / "messages.000000.npys").read_bytes() == b"rows"


def test_a_preset_whose_definition_is_overridden_is_said_once_and_named_so_in_every_table(tmp_path):
    """A quantized run called fedbuff would be the baseline of others."""
    label = "fedbuff (uplink.codec = qsgd)"
    (tmp_path / "mine.toml").write_text(
        'algorithm = "fedbuff"\n[uplink]\ncodec = "qsgd"\n[stop]\nuploads = 30\n'
    )
    done = qafel("run", "mine.toml", "--out", "a.h5", "--json", cwd=tmp_path)
    assert done.stderr.count(f"the trace and all tables call it {label}\n") == 1
    assert json.loads(done.stdout)["algorithm"] == label
    for command in (
        ["table", "--json"],
        ["table", "--csv"],
        ["compare", "--json"],
        ["compare", "--markdown"],
    ):
        shown = CliRunner().invoke(analysis, [command[0], str(tmp_path / "a.h5"), *command[1:]])
        assert label in shown.stdout, command
    idle = qafel("run", "mine.toml", "--set", "client.pause_seconds=0", cwd=tmp_path)
    assert (idle.returncode, "no effect on the virtual clock" in idle.stderr) == (2, True)


def test_mpirun_runs_on_the_wall_clock_with_results_on_stdout_and_progress_on_stderr(tmp_path):
    done = qafel("run", "digits", *SHORT, ranks=3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("outcome") == 1
    assert "finished" in done.stdout
    assert "digits: 0.0 s  uploads 0" in done.stderr
    assert "MPI_ABORT" not in done.stderr
    with h5py.File(tmp_path / "runs/digits-qafel-seed0.h5") as trace:
        assert trace.attrs["driver"] == "wall"
        assert trace.attrs["ranks"] == 3


def test_two_client_ranks_play_a_population_of_fifty(tmp_path):
    """1,437 images dealt to 50 clients; each lives on one rank, and nearly all are drawn in 400 uploads."""
    settings = ("--set", "task.clients=50", "--set", "stop.uploads=400", "--out", "a.h5")
    done = qafel("run", "digits", *settings, ranks=3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "a.h5") as trace:
        updates, messages = trace["updates"][:], trace["messages"][:]
        assert trace.attrs["clients"] == 50
    assert 45 <= len(set(updates["client"])) <= 50
    assert set(updates["examples"]) == {28, 29}
    sent = messages[(messages["end"] == 0) & (messages["kind"] == 3)]
    hosts = {(row["client"], row["src"]) for row in sent}
    assert len(hosts) == len(set(sent["client"]))


def test_a_codec_that_is_no_contraction_is_said_once_with_its_measured_delta(tmp_path):
    whole = ("--set", "uplink.scale=l2", "--set", "uplink.bucket=tensor")
    done = qafel("run", "digits", *SHORT, *whole, ranks=3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (said,) = re.findall(r"uplink: codec qsgd at 4 bits is no contraction: δ = (-[\d.]+) ", done.stderr)
    assert -7 < float(said) < -4  # about 1 − √d/s of its bound, for d = 4,810 and s = 7
    assert "downlink: codec" not in done.stderr


def test_the_algorithm_can_be_named_on_the_command_line(tmp_path):
    done = qafel(
        "run", "digits", *SHORT, "--set", "algorithm=fedbuff", "--out", "f.h5", ranks=2, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "f.h5") as trace:
        assert (trace.attrs["algorithm"], trace.attrs["uplink_codec"]) == ("fedbuff", "identity")


def test_any_experiment_runs_on_made_data(tmp_path):
    made = (
        "--set",
        "task.dataset=synthetic",
        "--set",
        "stop.uploads=3",
        "--set",
        "evaluation.every_steps=1000",
    )
    done = qafel("run", "celeba", *made, "--set", "evaluation.examples=100", "--out", "c.h5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "c.h5") as trace:
        assert trace.attrs["parameters"] == 29_282
        assert trace.attrs["payload_bytes_per_upload"] == 15_380


@pytest.mark.parametrize("required", [True, False])
def test_a_target_out_of_reach_is_exit_code_4_where_it_is_required(required, tmp_path):
    options = ["--require-target"] if required else []
    done = qafel("run", "digits", *SHORT, "--target-accuracy", "0.99", *options, cwd=tmp_path)
    assert done.returncode == (4 if required else 0)
    assert "outcome          finished" in done.stdout


SUITE = """
[task]
clients = 20
[stop]
uploads = 30
[variants.coarse.uplink]
bits = 2
[variants.plain]
algorithm = "fedbuff"
"""


def test_a_suite_runs_all_variants_and_goes_on_where_it_stopped(tmp_path):
    (tmp_path / "s.toml").write_text(SUITE)
    arguments = ("suite", "s.toml", "--seeds", "0-1", "--out", "traces")
    assert qafel(*arguments, "--show", cwd=tmp_path).stdout.splitlines()[-1] == "0 of 4 done, 4 left"
    assert not (tmp_path / "traces").exists()
    done = qafel(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "4 of 4 done, 0 left"
    names = ["coarse-seed0.h5", "coarse-seed1.h5", "plain-seed0.h5", "plain-seed1.h5"]
    assert sorted(path.name for path in (tmp_path / "traces").iterdir()) == names
    (tmp_path / "traces/plain-seed1.h5").write_bytes(b"cut short")
    again = qafel(*arguments, cwd=tmp_path)
    assert again.stdout == done.stdout
    assert "plain, seed 1: finished, 30 uploads; 4 of 4 done, 0 left" in again.stderr
    assert "coarse, seed" not in again.stderr
    other = qafel(*arguments, "--set", "task.clients=30", cwd=tmp_path)
    assert other.returncode == 2
    assert other.stderr.count("task.clients is 20 there and 30 here") == 4
    missed = qafel(*arguments, "--require-target", cwd=tmp_path)
    assert missed.returncode == 4, missed.stderr


def test_a_suite_skips_and_names_what_the_job_has_too_few_ranks_for(tmp_path):
    (tmp_path / "s.toml").write_text(SUITE + "[variants.coarse.transport]\nranks = 9\n")
    done = qafel("suite", "s.toml", "--out", "traces", ranks=2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("skipped because this job has 2 ranks: coarse\n") == 1
    assert [path.name for path in (tmp_path / "traces").iterdir()] == ["plain-seed0.h5"]
    asked = qafel("suite", "s.toml", "--variant", "coarse", "--out", "traces", ranks=2, cwd=tmp_path)
    assert asked.returncode == 2
    assert asked.stderr.count("coarse: this job has 2 ranks; start it with `mpirun -n 9` or more") == 1


def test_a_suites_mistakes_are_found_before_the_first_run(tmp_path):
    (tmp_path / "s.toml").write_text(SUITE + "[variants.bad.uplink]\nbitz = 2\n")
    done = qafel("suite", "s.toml", "--seeds", "0-4", "--out", "traces", cwd=tmp_path)
    assert done.returncode == 2
    wrong = "experiment s.toml, variant bad: uplink.bitz: unknown key; did you mean bits?\n"
    assert done.stderr == wrong
    assert "has no variants" in qafel("suite", "celeba", "--out", "traces", cwd=tmp_path).stderr
    assert (
        "not a list like 0-4" in qafel("suite", "s.toml", "--seeds", "x", "--out", "t", cwd=tmp_path).stderr
    )


# --- ends -------------------------------------------------------------------------------------------


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
    env = write_dataset(tmp_path, f"if {RANK} == 2: raise RuntimeError('boom')")
    begun = time.monotonic()
    done = qafel("run", "digits", *OWN, *ENDLESS, ranks=4, cwd=tmp_path, env=env)
    assert done.returncode in aborted(3)
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert "RuntimeError: boom" in done.stderr
    assert f"rank 2 on {socket.gethostname()}: failed" in done.stderr
    assert time.monotonic() - begun < 60, "it ended by itself"


def test_the_same_exception_on_all_ranks_is_said_once(tmp_path):
    env = write_dataset(tmp_path, "raise RuntimeError('boom')")
    done = qafel("run", "digits", *OWN, ranks=3, cwd=tmp_path, env=env)
    assert done.returncode in aborted(3)
    assert done.stderr.count("RuntimeError: boom") == 1


def test_data_missing_on_one_host_is_one_message_with_rank_and_host(tmp_path):
    env = write_dataset(tmp_path, f"if {RANK} == 1: raise DataError('/data/x.bin: not here')")
    done = qafel("run", "digits", *OWN, ranks=3, cwd=tmp_path, env=env)
    assert done.returncode in aborted(2)
    assert f"rank 1 on {socket.gethostname()}: /data/x.bin: not here" in done.stderr
    assert done.stderr.count("not here") == 1
    assert "Traceback" not in done.stderr


def test_what_is_wrong_with_the_whole_job_ends_a_suite_with_one_message(tmp_path):
    """Also where a variant leaves ranks out: they hear of it from rank 0."""
    (tmp_path / "s.toml").write_text(SUITE + "[variants.coarse.transport]\nranks = 2\n")
    env = write_dataset(tmp_path, "raise DataError('/data/x.bin: not here')")
    done = qafel("suite", "s.toml", "--seeds", "0-1", *OWN, "--out", "t", ranks=3, cwd=tmp_path, env=env)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("/data/x.bin: not here; the suite ends at coarse, seed 0\n") == 1
    assert done.stderr.count("not here") == 1
    assert "Traceback" not in done.stderr


def test_data_missing_everywhere_is_one_message(tmp_path):
    nowhere = ("--data-dir", str(tmp_path / "nowhere"))
    done = qafel("run", "mushrooms", *nowhere, ranks=3, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("data fetch mushrooms") == 1
    assert "Traceback" not in done.stderr
    assert "MPI_ABORT" not in done.stderr


def begin(*arguments: str, ranks: int, cwd: Path) -> subprocess.Popen[str]:
    """Start a run that has no end of its own, and return when it shows that it goes on."""
    launcher = [mpirun(), "-n", str(ranks)] if ranks else []
    process = subprocess.Popen(
        [*launcher, COMMAND, "run", "digits", *ENDLESS, *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"MPIEXEC_TIMEOUT": "110"},
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "uploads" in line:
            return process
    raise AssertionError(f"it ended: {process.wait()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_an_interrupted_run_keeps_its_trace_and_exits_with_75(number, tmp_path):
    process = begin("--out", "a.h5", ranks=0, cwd=tmp_path)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert "outcome          interrupted" in stdout
    with h5py.File(tmp_path / "a.h5") as trace:
        assert str(trace.attrs["outcome"]).startswith("interrupted")


def test_a_batch_systems_warning_reaches_the_ranks_through_mpirun(tmp_path):
    process = begin("--out", "a.h5", ranks=3, cwd=tmp_path)
    process.send_signal(signal.SIGUSR1)  # as sbatch --signal=B:USR1 with a trap
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert "outcome          interrupted" in stdout


def test_what_a_killed_run_had_written_can_be_merged(tmp_path):
    process = begin("--out", "a.h5", "--set", "trace.flush_seconds=0", ranks=0, cwd=tmp_path)
    while not list(tmp_path.glob("a.shards/updates.*")):
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


# --- info, data -------------------------------------------------------------------------------------


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
