"""Job scripts from templates: what is filled in, what is refused, and that bash can read them."""

import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from qafel_mpi import cli_jobs
from qafel_mpi.config_text import ConfigError


def render(*arguments: str) -> str:
    done = CliRunner().invoke(cli_jobs.jobs, ["render", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_templates_are_there_with_a_line_each():
    assert list(cli_jobs.templates()) == [
        "multi-node-gpu",
        "single-node",
        "strong-scaling",
        "sweep-array",
        "weak-scaling",
    ]
    assert all(len(text) > 20 for text in cli_jobs.templates().values())


@pytest.mark.parametrize("name", cli_jobs.templates())
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


def test_variables_are_quoted():
    assert "\nOPTIONS='--set a=\"b c\"; rm x'\n" in render("single-node", "--options", '--set a="b c"; rm x')


def test_a_sweep_has_as_many_tasks_as_its_suite_has_runs():
    assert "#SBATCH --array=0-9\n" in render("sweep-array", "--suite", "digits", "--seeds", "0-4")
    assert "#SBATCH --array=0-3%2\n" in render(
        "sweep-array", "--suite", "digits", "--seeds", "0-1", "--sbatch", "array=0-3%2"
    )


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
        (["sweep-array", "--suite", "celeba"], "--suite celeba: it has no variants"),
        (["sweep-array", "--seeds", "x"], "--seeds x: not a list like 0-4 or 0,3,7"),
        (
            ["single-node", "--sbatch", "gres"],
            "--sbatch gres: it takes OPTION=VALUE, such as constraint=a100",
        ),
        (["single-node", "--launcher", "aprun"], "--launcher aprun: mpirun or srun"),
        (["single-node", "--site", "no.env"], "--site no.env: No such file or directory"),
    ],
)
def test_a_mistake_is_named(arguments, says):
    with pytest.raises(ConfigError) as error:
        render(*arguments)
    assert str(error.value) == says
