"""The commands `qafel-mpi jobs`: SLURM scripts from the templates in jobs/."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from qafel_mpi.commands.help import App
from qafel_mpi.commands.jobs import script as filling
from qafel_mpi.config_text import ConfigError, did_you_mean
from qafel_mpi.outputs import in_the_way

jobs = App(
    help="SLURM job scripts: list the templates, fill one in.",
    epilog="Examples:\n\n  qafel-mpi jobs list\n\n"
    "  qafel-mpi jobs render single-node --account p123 --out job.sbatch && sbatch job.sbatch",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@jobs.command("list")
def list_() -> None:
    """List the templates, one a line."""
    for name, about in filling.templates().items():
        print(f"{name:<16}  {about}")


@jobs.command(
    epilog="Examples:\n\n  qafel-mpi jobs site\n\n  qafel-mpi jobs site --out site     [dim]copies to change[/dim]"
)
def site(
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Copy them into this folder, which is made.")
    ] = None,
) -> None:
    """List the files for ReFrame, JUBE, EasyBuild, Spack and containers, or copy them."""
    try:
        for path, about in filling.site_files(out).items():
            print(f"{path}  {about}")
    except OSError as error:
        raise ConfigError([f"--out {out}: {error.strerror or error}"]) from None


@jobs.command(
    epilog="Examples:\n\n"
    "  qafel-mpi jobs render single-node --account p123 --time 00:10:00 --experiment celeba --out a.sbatch\n\n"
    "  qafel-mpi jobs render sweep-array --suite celeba-grid --seeds 0-4      [dim]counts its tasks[/dim]\n\n"
    "  qafel-mpi jobs render multi-node-gpu --nodes 4 --gpus-per-node 8 --sbatch constraint=a100\n\n"
    "  qafel-mpi jobs render weak-scaling --nodes 8 --launcher srun --site mysite.env"
)
def render(
    template: Annotated[str, typer.Argument(metavar="TEMPLATE", help="One of `qafel-mpi jobs list`.")],
    nodes: Annotated[int | None, typer.Option(min=1, help="Number of nodes.")] = None,
    ntasks_per_node: Annotated[
        int | None,
        typer.Option(min=1, help="Ranks per node. Default with --gpus-per-node: GPUs, and the server."),
    ] = None,
    cpus_per_task: Annotated[int | None, typer.Option(min=1, help="Cores per rank.")] = None,
    gpus_per_node: Annotated[int | None, typer.Option(min=1, help="GPUs per node.")] = None,
    time: Annotated[
        str | None, typer.Option(metavar="HH:MM:SS", help="Time limit, in any of SLURM's formats.")
    ] = None,
    account: Annotated[str | None, typer.Option(help="The account to charge.")] = None,
    partition: Annotated[str | None, typer.Option(help="The partition to submit to.")] = None,
    qos: Annotated[str | None, typer.Option(help="The quality of service.")] = None,
    more: Annotated[
        list[str] | None,
        typer.Option("--sbatch", metavar="OPTION[=VALUE]", help="Any other #SBATCH option. Can be repeated."),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option(metavar="NAME", help="Experiment of a single run: a name or a TOML file.")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Suite of a sweep or a scaling study: a name or a TOML file."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(metavar="LIST", help="Seeds, such as 0-4 or 0,3,7.")] = None,
    options: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help='Options for the run, such as "--set uplink.bits=2 --data-dir /data".'
        ),
    ] = None,
    launcher: Annotated[
        str | None, typer.Option(metavar="NAME", help="mpirun or srun. Default: what the site's file says.")
    ] = None,
    site: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your site's file, in place of jobs/site.env.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The script. Default: standard output.")
    ] = None,
) -> None:
    """Fill in a template. The script contains the site's settings and needs no further editing.

    A job that can't run is refused here, not after it has waited in the queue: a time limit that SLURM does not
    accept, an experiment that does not exist, too few tasks.
    """
    from qafel_mpi.commands.jobs import checks

    if template not in filling.templates():
        raise ConfigError([f"template {template}: {did_you_mean(template, filling.templates())}"])
    original = filling.template(template)
    apart = filling.has_two_parts(original)
    if gpus_per_node is not None and ntasks_per_node is None:
        ntasks_per_node = gpus_per_node + (0 if apart else 1)
    chosen = {
        "nodes": nodes,
        "ntasks-per-node": ntasks_per_node,
        "cpus-per-task": cpus_per_task,
        "gpus-per-node": gpus_per_node,
        "time": time,
        "account": account,
        "partition": partition,
        "qos": qos,
    }
    settings: dict[str, str | None] = {
        name: str(value) for name, value in chosen.items() if value is not None
    }
    settings |= dict(_more(text) for text in more or ())
    variables = {"EXPERIMENT": experiment, "SUITE": suite, "SEEDS": seeds, "OPTIONS": options}
    given = {name: value for name, value in variables.items() if value is not None}
    if launcher not in (None, "mpirun", "srun"):
        raise ConfigError([f"--launcher {launcher}: it is mpirun or srun"])
    script = filling.with_options(filling.with_variables(original, given), settings)
    job = checks.Job(filling.variables(original) | given, filling.options(script), apart)
    checks.check(job, note=lambda line: print(line, file=sys.stderr))
    if "array" in job.sbatch and "array" not in settings:
        script = filling.with_options(script, {"array": f"0-{checks.count_runs(job) - 1}"})
    script = filling.with_sources(script, site, launcher)
    if out is None:
        print(script, end="")
        return
    if why := in_the_way(out):
        raise ConfigError([f"--out {why}"])
    try:
        out.write_text(script, encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"--out {out}: {error.strerror}"]) from None
    print(f"sbatch {out}")


def _more(text: str) -> tuple[str, str | None]:
    name, equals, value = text.removeprefix("--").partition("=")
    if not re.fullmatch(r"[a-z][a-z-]*", name):
        raise ConfigError(
            [f"--sbatch {text}: it takes OPTION=VALUE or OPTION, such as constraint=a100, exclusive"]
        )
    return name, value if equals else None
