"""Runs and suites as a user starts them: their words, their traces, their exit codes."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from qafel_analysis.commands.app import app as analysis
from typer.testing import CliRunner

from tests.no_locks import without_locks
from tests.support import check_against_schema, mpirun
from tests.system.command import COMMAND, SHORT, SUITE, own_words, qafel
from tests.unit.trace.test_claim import taken_elsewhere


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
    traces = [re.search(r"^trace +(.*)$", run.communicate(timeout=300)[0], re.MULTILINE) for run in both]
    assert [run.returncode for run in both] == [0, 0]
    names = {Path(found[1]).name for found in traces if found}
    assert names == {"digits-qafel-seed0.h5", "digits-qafel-seed0-2.h5"}
    for name in names:
        with h5py.File(tmp_path / "runs" / name) as file:
            assert len(file["updates"]) == 30
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == sorted(names)


def test_ranks_that_neither_we_nor_mpi_take_for_ranks_are_not_a_run_each(tmp_path):
    """As under a launcher that is not known, with an MPI library that is not its own."""
    lasts = ["--set", "stop.accuracy=1", "--set", "stop.uploads=100000"]  # until the others have started
    command = [COMMAND, "run", "digits", *lasts]
    ranks = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [rank.communicate(timeout=300)[1] for rank in ranks]
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
            [*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
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
        command, cwd=tmp_path, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=300
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
    """1,437 images dealt to 50 clients; each lives on one rank, and nearly all are drawn in 4,000 uploads.

    The ranks need not be equally fast in the half second that this takes.
    """
    settings = ("--set", "task.clients=50", "--set", "stop.uploads=4000", "--set", "stop.accuracy=1.0")
    settings += ("--out", "a.h5")
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
