"""What a job script can't run with is said when it is made, not after the job has waited in a queue."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from qafel_mpi.commands.jobs import checks
from qafel_mpi.commands.jobs.app import jobs
from qafel_mpi.config_text import ConfigError


def render(*arguments: str):
    return CliRunner().invoke(jobs, ["render", *arguments], catch_exceptions=False)


def refusal(*arguments: str) -> str:
    with pytest.raises(ConfigError) as error:
        render(*arguments)
    return str(error.value)


@pytest.mark.parametrize(
    "text",
    ["30", "30:00", "2:00:00", "100:00:00", "1-12", "1-12:30", "1-12:30:15", "0", "UNLIMITED", "infinite"],
)
def test_every_format_of_slurm_s_is_a_time_limit(text):
    assert f"#SBATCH --time={text}\n" in render("single-node", "--time", text).stdout


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("2h", "; for 2h give 02:00:00"),
        ("90m", "; for 90m give 01:30:00"),
        ("1.5 days", "; for 1.5 days give 1-12:00:00"),
        ("1h 30 min", "; for 1h 30 min give 01:30:00"),
        ("soon", ""),
        ("1:2:3:4", ""),
        ("1-2:3:4:5", ""),
        ("-5", ""),
        ("٣", ""),
    ],
)
def test_another_time_limit_is_refused_with_the_one_that_was_meant(text, fix):
    expected = f"--time {text}: SLURM takes MINUTES, HH:MM:SS or DAYS-HH:MM:SS{fix}"
    assert refusal("single-node", f"--time={text}") == expected
    assert refusal("single-node", "--sbatch", f"time={text}") == expected


@pytest.mark.parametrize("option", ["--experiment", "--suite"])
def test_an_experiment_that_is_not_there_is_refused_with_the_path_that_was_looked_at(
    option, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    said = refusal("single-node" if option == "--experiment" else "sweep-array", option, "mine.toml")
    assert said.startswith(f"{option} mine.toml: {tmp_path}/mine.toml: No such file or directory; ")
    said = refusal("single-node" if option == "--experiment" else "sweep-array", option, "digts")
    assert said.endswith("did you mean digits?")


def test_what_is_wrong_in_a_file_or_in_options_is_said_with_its_place(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[stop]\nuploads = 10\n[uplink]\nbitz = 2\n")
    said = refusal("single-node", "--experiment", str(file))
    assert said == f"--experiment {file}: uplink.bitz: unknown key; did you mean bits?"
    said = refusal("single-node", "--options", "--set uplink.bitz=2")
    assert said == "--options: --set uplink.bitz: unknown key; did you mean bits?"
    said = refusal("single-node", "--options", "--seed three")
    assert said.startswith("--options: --set seed: ")
    said = refusal("sweep-array", "--options", "--set=server.buffer_size=0")
    assert said == "--options: --set server.buffer_size: 0 is not allowed; it takes a whole number >= 1"


def test_a_run_in_real_time_needs_two_tasks():
    said = refusal("single-node", "--ntasks-per-node", "1")
    assert said == (
        "--nodes 1 and --ntasks-per-node 1: the job has 1 task, and a run in real time needs 2, a server and a "
        'client; give more, or --options "--set clock.kind=virtual" to run it in virtual time'
    )
    assert refusal("single-node", "--sbatch", "ntasks=1").startswith("--nodes 1 and --ntasks 1 and ")
    virtual = render("single-node", "--ntasks-per-node", "1", "--options", "--set clock.kind=virtual")
    assert virtual.exit_code == 0
    assert render("single-node", "--sbatch", "ntasks=2", "--ntasks-per-node", "1").exit_code == 0
    assert render("sweep-array", "--ntasks-per-node", "1").exit_code == 0, "its tasks run in virtual time"


def test_a_run_with_a_number_of_ranks_of_its_own_needs_as_many_tasks(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[stop]\nuploads = 10\n[transport]\nranks = 9\n")
    assert refusal("single-node", "--experiment", str(file)) == (
        f"--nodes 1 and --ntasks-per-node 4: the job has 4 tasks, and {file} needs 9; raise --nodes or "
        "--ntasks-per-node"
    )
    assert render("single-node", "--experiment", str(file), "--ntasks-per-node", "9").exit_code == 0


def test_what_a_suite_would_skip_is_said(tmp_path):
    few = render("strong-scaling", "--nodes", "1", "--ntasks-per-node", "4", "--options", "")
    assert few.exit_code == 0
    assert few.stderr.startswith("note: 4 tasks are too few for wall-8, wall-16, ")
    assert "which the suite will skip" in few.stderr
    one = ("strong-scaling", "--nodes", "1", "--ntasks-per-node", "4", "--options", "--variant wall-8")
    assert "the job has 4 tasks, and strong-scaling needs 8" in refusal(*one)
    file = tmp_path / "big.toml"
    file.write_text("[stop]\nuploads = 10\n[variants.a]\ntransport.ranks = 64\n")
    assert f"the job has 32 tasks, and {file} needs 64" in refusal("strong-scaling", "--suite", str(file))


def test_more_client_ranks_than_gpus_are_refused_unless_they_share_them():
    asked = ("multi-node-gpu", "--gpus-per-node", "4", "--ntasks-per-node", "9")
    assert refusal(*asked) == (
        "--ntasks-per-node 9: 8 client ranks a node and 4 GPUs; give --ntasks-per-node 5, or "
        '--options "--set transport.share_gpus=true" to share them'
    )
    assert render(*asked, "--options", "--set transport.share_gpus=true").exit_code == 0


@pytest.mark.parametrize("name", ["strong-scaling", "weak-scaling", "sweep-array"])
def test_seeds_are_a_list_in_every_template_that_has_them(name):
    assert refusal(name, "--seeds", "0..4") == "--seeds 0..4: not a list like 0-4 or 0,3,7"


def test_the_jobs_of_the_documentation_pass(tmp_path):
    site = tmp_path / "mysite.env"
    site.write_text("VENV=/opt/venv\n")
    for line in (
        "single-node --account p123 --time 00:10:00 --experiment celeba",
        "sweep-array --suite celeba-grid --seeds 0-4 --account p123 --time 02:00:00",
        "multi-node-gpu --nodes 4 --gpus-per-node 8 --sbatch constraint=a100",
        f"weak-scaling --nodes 8 --launcher srun --site {site}",
    ):
        assert render(*line.split()).exit_code == 0, line


def test_a_node_count_may_be_a_range():
    assert checks._tasks({"nodes": "2-4", "ntasks-per-node": "3"}) == 6
    assert checks._tasks({"nodes": "2"}) is None


def test_a_refused_script_is_not_written(tmp_path: Path):
    refusal("single-node", "--time", "2h", "--out", str(tmp_path / "job.sbatch"))
    assert not list(tmp_path.iterdir())
