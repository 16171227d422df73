"""Job scripts from templates: what is filled in, what is refused, and that bash can read them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qafel_mpi.commands.jobs.app import jobs
from qafel_mpi.commands.jobs.script import FOLDER, SITE, templates
from qafel_mpi.config_text import ConfigError


def render(*arguments: str) -> str:
    done = CliRunner().invoke(jobs, ["render", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_templates_are_there_with_a_line_each():
    assert list(templates()) == [
        "multi-node-gpu",
        "server-apart",
        "single-node",
        "strong-scaling",
        "sweep-array",
        "weak-scaling",
    ]
    assert all(len(text) > 20 for text in templates().values())


@pytest.mark.parametrize("name", templates())
def test_a_rendered_script_is_valid_bash_and_needs_no_other_file_of_the_site(name, tmp_path):
    script = tmp_path / "job.sh"
    script.write_text(render(name, "--account", "p123", "--nodes", "3"))
    text = script.read_text()
    assert "#SBATCH --account=p123\n" in text
    assert "#SBATCH --nodes=3\n" in text
    assert "##SBATCH --account" not in text
    assert 'site.env"' not in text
    assert "LAUNCHER=${LAUNCHER:-mpirun}" in text
    if bash := shutil.which("bash"):
        done = subprocess.run([bash, "-n", str(script)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_options_stand_before_the_first_command_where_slurm_looks_for_them():
    lines = render("single-node", "--sbatch", "constraint=a100", "--time", "00:05:00").splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    options = [line for line in lines[:first] if line.startswith("#SBATCH")]
    assert "#SBATCH --constraint=a100" in options
    assert "#SBATCH --time=00:05:00" in options
    assert sum("--time" in line for line in options) == 1


def test_options_of_a_job_in_two_parts_are_the_clients_but_for_account_and_time():
    text = render(
        "server-apart", "--nodes", "3", "--gpus-per-node", "2", "--account", "p1", "--partition", "gpu"
    )
    server, clients = text.split("#SBATCH hetjob\n")
    assert "#SBATCH --nodes=1\n" in server
    assert "#SBATCH --nodes=3\n" in clients
    assert "#SBATCH --ntasks-per-node=2\n" in clients
    assert "gpus" not in server
    assert all("#SBATCH --account=p1\n" in part for part in (server, clients))
    assert "\n#SBATCH --partition" not in server
    assert "#SBATCH --partition=gpu\n" in clients


def test_a_host_of_a_job_in_two_parts_has_no_place_for_the_server():
    with pytest.raises(ConfigError, match="3 client ranks a node and 2 GPUs; give --ntasks-per-node 2"):
        render("server-apart", "--gpus-per-node", "2", "--ntasks-per-node", "3")


def test_the_files_for_a_sites_tools_are_listed_and_copied_but_never_over_others(tmp_path):
    assert set(SITE) == {path.name for path in (FOLDER / "site").iterdir()} - {"__init__.py", "__pycache__"}
    listed = CliRunner().invoke(jobs, ["site"], catch_exceptions=False).stdout.splitlines()
    assert len(listed) == len(SITE)
    CliRunner().invoke(jobs, ["site", "--out", str(tmp_path / "mine")], catch_exceptions=False)
    assert {path.name for path in (tmp_path / "mine").iterdir()} == set(SITE)
    with pytest.raises(ConfigError, match="is there already"):
        CliRunner().invoke(jobs, ["site", "--out", str(tmp_path / "mine")], catch_exceptions=False)


def test_variables_are_quoted():
    text = render("single-node", "--options", '--set description="b c"; rm x')
    assert "\nOPTIONS='--set description=\"b c\"; rm x'\n" in text


def test_a_sweep_has_as_many_tasks_as_its_suite_has_runs():
    assert "#SBATCH --array=0-9\n" in render("sweep-array", "--suite", "digits", "--seeds", "0-4")
    assert "#SBATCH --array=0-3%2\n" in render(
        "sweep-array", "--suite", "digits", "--seeds", "0-1", "--sbatch", "array=0-3%2"
    )


def test_a_sweep_of_chosen_variants_has_their_runs_alone():
    text = render("sweep-array", "--suite", "digits", "--seeds", "0-4", "--options", "--variant fedbuff")
    assert "#SBATCH --array=0-4\n" in text


def test_an_option_may_have_no_value():
    assert "#SBATCH --exclusive\n" in render("single-node", "--sbatch", "exclusive")


def program(path: Path, script: str) -> None:
    """Make one, unless the test has made its own."""
    if not path.exists():
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


def started(tmp_path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script run by bash as in a job of SLURM's; mpirun says its arguments, one a line."""
    program(tmp_path / "mpirun", """printf '%s\\n' "$@\"""")
    job = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "a", "SLURM_NTASKS": "2"}
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"} | job | variables
    return subprocess.run(
        ["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@needs_bash
def test_options_may_hold_spaces_quotes_and_stars(tmp_path):
    (tmp_path / "a=1").touch()  # a star that the shell took for a pattern would find it
    options = """--data-dir "/my data" --set 'model="m n"' --set a=*"""
    done = started(tmp_path, render("single-node"), OPTIONS=options, MPIRUN_OPTIONS="--x 'y z'")
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert words[:4] == ["--x", "y z", "-n", "2"]
    digits = words.index("digits")
    chosen = ["--data-dir", "/my data", "--set", 'model="m n"', "--set", "a=*"]
    assert words[digits + 1 :] == [*chosen, "--out", f"{tmp_path}/runs/a-7.h5"]


@needs_bash
def test_options_with_an_open_quote_are_refused_once(tmp_path):
    done = started(tmp_path, render("single-node"), OPTIONS="--set 'a=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "check its quotes: --set 'a=1" in done.stderr


@needs_bash
def test_a_requeued_run_has_a_name_of_its_own(tmp_path):
    done = started(tmp_path, render("single-node"), SLURM_RESTART_COUNT="1")
    assert done.stdout.endswith(f"{tmp_path}/runs/a-7-restart1.h5\n")


@needs_bash
def test_srun_is_told_what_it_does_not_take_over_from_sbatch(tmp_path):
    program(tmp_path / "srun", 'echo "$SRUN_CPUS_PER_TASK $SLURM_EXPORT_ENV $SLURM_PMIX_FENCE"')
    variables = {"LAUNCHER": "srun", "SLURM_CPUS_PER_TASK": "3", "SLURM_EXPORT_ENV": "NONE"}
    assert started(tmp_path, render("single-node"), **variables).stdout == "3 ALL ring\n"


# In the place of SLURM 22.05's srun: the ranks, one after the other, and then what it does itself.
SRUN_IN_PARTS = """\
while [ "$1" != sh ]; do shift; done
for rank in 0 1 2; do SLURM_PROCID=$rank "$@"; done
"""


@needs_bash
@pytest.mark.parametrize("ranks_code", [0, 75])
@pytest.mark.parametrize("end", ["exec sleep 60", "kill -ABRT $$"], ids=["stays", "crashes"])
def test_a_job_in_two_parts_ends_as_its_ranks_do_where_srun_does_not(end, ranks_code, tmp_path):
    program(tmp_path / "srun", SRUN_IN_PARTS + end)
    program(tmp_path / "qafel-mpi", f'[ "$1" = --version ] || exit {ranks_code}')
    parts = {"SLURM_HET_SIZE": "2", "SLURM_NTASKS_HET_GROUP_0": "1", "SLURM_NTASKS_HET_GROUP_1": "2"}
    done = started(tmp_path, render("server-apart"), LAUNCHER="srun", SRUN_STAYS="1", **parts)
    assert done.returncode == ranks_code, done.stderr
    assert f"its ranks with {ranks_code}, which" in done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == []


@needs_bash
def test_a_job_in_two_parts_fails_as_srun_does_where_no_rank_has_begun(tmp_path):
    program(tmp_path / "srun", "kill -ABRT $$")
    done = started(tmp_path, render("server-apart"), LAUNCHER="srun", SLURM_HET_SIZE="2")
    assert (done.returncode, done.stdout) == (134, "")


@needs_bash
def test_a_sites_file_may_leave_out_what_has_a_default(tmp_path):
    (tmp_path / "site.env").write_text("# nothing\n")
    done = started(tmp_path, render("single-node", "--site", str(tmp_path / "site.env")))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"{tmp_path}/runs/a-7.h5\n")


@needs_bash
@pytest.mark.parametrize("name", templates())
def test_a_template_that_is_submitted_from_another_folder_says_so_once(name, tmp_path):
    text = (FOLDER / f"{name}.sbatch").read_text()
    done = started(tmp_path, text)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"no {tmp_path}/jobs/job.sh: submit from the folder that holds jobs/\n"


@needs_bash
def test_a_suite_of_a_file_has_its_runs_under_the_files_name(tmp_path):
    script = render("sweep-array", "--suite", "digits").replace("SUITE=digits", "SUITE=/abs/x.toml")
    done = started(tmp_path, script, SLURM_ARRAY_TASK_ID="0")
    assert done.stdout.endswith(f"--out\n{tmp_path}/runs/x\n")


@needs_bash
def test_a_scaling_study_ends_with_the_table_of_the_sizes_that_ran(tmp_path):
    for name, text in {"mpirun": "exit 3", "qafel-analysis": 'echo "$@"'}.items():
        program(tmp_path / name, text)
    script = render("strong-scaling")
    done = started(tmp_path, script)
    assert (done.returncode, done.stdout) == (3, ""), "nothing ran: no table"
    trace = tmp_path / "runs/strong-scaling/wall-2-seed0.h5"
    trace.parent.mkdir()
    trace.touch()
    done = started(tmp_path, script)
    assert (done.returncode, done.stdout) == (3, f"scaling {trace}\n")


@needs_bash
def test_gpus_that_no_rank_would_use_are_warned_of(tmp_path):
    program(tmp_path / "scontrol", "echo h1; echo h2")
    sizes = {"SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "5"}
    script = render("multi-node-gpu")
    assert (
        "warning: 8 GPUs on a host, and 4"
        in started(tmp_path, script, SLURM_GPUS_ON_NODE="8", **sizes).stderr
    )
    assert started(tmp_path, script, SLURM_GPUS_ON_NODE="4", **sizes).stderr == ""


@needs_bash
@pytest.mark.parametrize(
    ("sizes", "ranks"),
    [
        ({"SLURM_NTASKS_PER_NODE": "5"}, "9"),
        ({"SLURM_TASKS_PER_NODE": "5(x2)"}, "9"),
        ({"SLURM_TASKS_PER_NODE": "3,2"}, "5"),
        ({"SLURM_TASKS_PER_NODE": "1(x2)"}, None),
        ({}, None),
    ],
)
def test_a_job_of_gpus_counts_its_ranks_by_what_slurm_has_set(tmp_path, sizes, ranks):
    program(tmp_path / "scontrol", "echo h1; echo h2")
    done = started(tmp_path, render("multi-node-gpu"), SLURM_NNODES="2", **sizes)
    if ranks is None:
        assert done.returncode == 2
        assert "submit with --ntasks-per-node" in done.stderr
    else:
        assert f"-n\n{ranks}\n" in done.stdout


def test_a_host_has_a_rank_more_than_gpus():
    text = render("multi-node-gpu", "--gpus-per-node", "8")
    assert "#SBATCH --gpus-per-node=8\n" in text
    assert "#SBATCH --ntasks-per-node=9\n" in text


def test_the_sites_own_facts_and_launcher_take_the_place_of_the_templates(tmp_path):
    site = tmp_path / "mysite.env"
    site.write_text("module load openmpi\nRUNS=/scratch/me\n")
    text = render("weak-scaling", "--site", str(site), "--launcher", "srun")
    assert "module load openmpi\nRUNS=/scratch/me\nLAUNCHER=srun\n" in text
    assert "Facts of your site" not in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["singel-node"], "template singel-node: did you mean single-node?"),
        (["single-node", "--suite", "digits"], "--suite: this template has no SUITE"),
        (
            ["sweep-array", "--suite", "celeba"],
            "--suite celeba: it has no variants; a template with --experiment runs it",
        ),
        (
            ["sweep-array", "--options", "--variant fedbuf"],
            "--options: --variant fedbuf: did you mean fedbuff?",
        ),
        (["sweep-array", "--options", "--set 'a=1"], "--options --set 'a=1: No closing quotation"),
        (["sweep-array", "--seeds", "x"], "--seeds x: not a list like 0-4 or 0,3,7"),
        (
            ["single-node", "--sbatch", "gres gpu"],
            "--sbatch gres gpu: it takes OPTION=VALUE or OPTION, such as constraint=a100, exclusive",
        ),
        (["single-node", "--launcher", "aprun"], "--launcher aprun: it is mpirun or srun"),
        (["single-node", "--site", "no.env"], "--site no.env: No such file or directory"),
    ],
)
def test_a_mistake_is_named(arguments, says):
    with pytest.raises(ConfigError) as error:
        render(*arguments)
    assert str(error.value) == says
