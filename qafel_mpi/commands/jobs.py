"""The commands `qafel-mpi jobs`: SLURM scripts from the templates in jobs/."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from qafel_mpi.config_text import ConfigError, did_you_mean

jobs = typer.Typer(
    help="SLURM job scripts: list the templates, fill one in.",
    epilog="Examples:\n\n  qafel-mpi jobs list\n\n"
    "  qafel-mpi jobs render single-node --account p123 --out job.sbatch && sbatch job.sbatch",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

FOLDER = Path(str(files("qafel_jobs")))
_LOOKED_FOR = re.compile(r'^\[ -r "\$QAFEL_JOBS/.*\n', re.MULTILINE)
_SOURCED = re.compile(r'^\. "\$QAFEL_JOBS/(?P<name>[\w.]+)"$', re.MULTILINE)
_OPTION = re.compile(r"^#+SBATCH --(?P<name>[\w-]+)(?:=.*)?$")
_VARIABLE = re.compile(r"^(?P<name>[A-Z]+)=\$\{(?P=name):-[^}]*\}")


def templates() -> dict[str, str]:
    """Name -> the first line of what a template says of itself."""
    found = sorted(FOLDER.glob("*.sbatch"))
    return {path.stem: path.read_text(encoding="utf-8").splitlines()[1].lstrip("# ") for path in found}


@jobs.command("list")
def list_() -> None:
    """List the templates, one a line."""
    for name, text in templates().items():
        print(f"{name:<16}  {text}")


@jobs.command(
    epilog="Examples:\n\n"
    "  qafel-mpi jobs render single-node --account p123 --time 00:10:00 --experiment celeba --out a.sbatch\n\n"
    "  qafel-mpi jobs render sweep-array --suite celeba-grid --seeds 0-4      [dim]counts its tasks[/dim]\n\n"
    "  qafel-mpi jobs render multi-node-gpu --nodes 4 --gpus-per-node 8 --sbatch constraint=a100\n\n"
    "  qafel-mpi jobs render weak-scaling --nodes 8 --launcher srun --site mysite.env"
)
def render(
    template: Annotated[str, typer.Argument(metavar="TEMPLATE", help="One of `qafel-mpi jobs list`.")],
    nodes: Annotated[int | None, typer.Option(min=1)] = None,
    ntasks_per_node: Annotated[
        int | None, typer.Option(min=1, help="Ranks a node. With --gpus-per-node: one more than GPUs.")
    ] = None,
    cpus_per_task: Annotated[int | None, typer.Option(min=1)] = None,
    gpus_per_node: Annotated[int | None, typer.Option(min=1)] = None,
    time: Annotated[str | None, typer.Option(metavar="HH:MM:SS", help="Time limit.")] = None,
    account: Annotated[str | None, typer.Option()] = None,
    partition: Annotated[str | None, typer.Option()] = None,
    qos: Annotated[str | None, typer.Option()] = None,
    more: Annotated[
        list[str] | None,
        typer.Option("--sbatch", metavar="OPTION[=VALUE]", help="Any other #SBATCH option; may be repeated."),
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="What a single run runs.")] = None,
    suite: Annotated[str | None, typer.Option(help="What a sweep or a scaling study runs.")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="LIST", help="0-4, or 0,3,7.")] = None,
    options: Annotated[
        str | None, typer.Option(metavar="TEXT", help='Passed on: "--set uplink.bits=2 --data-dir /data".')
    ] = None,
    launcher: Annotated[str | None, typer.Option(help="mpirun or srun.")] = None,
    site: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your site's facts, in place of jobs/site.env.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write there. Default: standard output.")
    ] = None,
) -> None:
    """Fill a template in: a script on its own, with the site's facts inside. Nothing else has to be edited."""
    if template not in templates():
        raise ConfigError([f"template {template}: {did_you_mean(template, templates())}"])
    if gpus_per_node is not None and ntasks_per_node is None:
        ntasks_per_node = gpus_per_node + 1
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
        raise ConfigError([f"--launcher {launcher}: mpirun or srun"])
    script = (FOLDER / f"{template}.sbatch").read_text(encoding="utf-8")
    if (
        "array" not in settings
        and "SBATCH --array" in script
        and given.keys() & {"SUITE", "SEEDS", "OPTIONS"}
    ):
        settings["array"] = f"0-{_count(script, given) - 1}"
    script = with_options(with_variables(script, given), settings)
    script = with_sources(script, site, launcher)
    if out is None:
        print(script, end="")
        return
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


def _count(script: str, given: dict[str, str]) -> int:
    """Runs of the suite, for the array. Raises ConfigError."""
    from qafel_mpi.config import variants_of
    from qafel_mpi.drivers.suite import parse_seeds

    values = {m["name"]: m[0].partition(":-")[2][:-1] for m in map(_VARIABLE.match, script.splitlines()) if m}
    values |= given
    if not (variants := variants_of(values["SUITE"])):
        raise ConfigError([f"--suite {values['SUITE']}: it has no variants"])
    only = _chosen_variants(values["OPTIONS"])
    if unknown := [one for one in only if one not in variants]:
        raise ConfigError(f"--options: --variant {one}: {did_you_mean(one, variants)}" for one in unknown)
    return len(only or variants) * len(parse_seeds(values["SEEDS"]))


def _chosen_variants(options: str) -> set[str]:
    """Those that OPTIONS names, as the command `suite` reads it; none: all of the suite's. Raises ConfigError."""
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise ConfigError([f"--options {options}: {error}"]) from None
    found = {value for name, value in pairwise(words) if name == "--variant"}
    return found | {word.partition("=")[2] for word in words if word.startswith("--variant=")}


def with_variables(script: str, values: dict[str, str]) -> str:
    """The script with other values for variables of its top. Raises ConfigError for one that it has not."""
    left = dict(values)
    lines = script.splitlines()
    for i, line in enumerate(lines):
        if (match := _VARIABLE.match(line)) and match["name"] in left:
            lines[i] = f"{match['name']}={shlex.quote(left.pop(match['name']))}"
    if left:
        raise ConfigError(f"--{name.lower()}: this template has no {name}" for name in left)
    return "\n".join(lines) + "\n"


def with_options(script: str, settings: Mapping[str, str | None]) -> str:
    """The script with these #SBATCH options: in the place where it has them, else after the others.

    None is the value of an option that takes none.
    """
    left = {
        name: f"#SBATCH --{name}" + ("" if value is None else f"={value}") for name, value in settings.items()
    }
    lines = script.splitlines()
    last = 0
    for i, line in enumerate(lines):
        if match := _OPTION.match(line):
            last = i
            if match["name"] in left:
                lines[i] = left.pop(match["name"])
    lines[last + 1 : last + 1] = left.values()
    return "\n".join(lines) + "\n"


def with_sources(script: str, site: Path | None, launcher: str | None) -> str:
    """The script with what it reads from jobs/ inside. Raises ConfigError where the site's file can't be read."""

    def text(match: re.Match[str]) -> str:
        path = site if site is not None and match["name"] == "site.env" else FOLDER / match["name"]
        try:
            found = path.read_text(encoding="utf-8").rstrip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([f"--site {path}: {getattr(error, 'strerror', None) or error}"]) from None
        chosen = f"\nLAUNCHER={launcher}" if launcher and match["name"] == "site.env" else ""
        return f"# --- {match['name']}\n{found}{chosen}\n# --- end of {match['name']}\n"

    script = _LOOKED_FOR.sub("", script).replace("${SLURM_SUBMIT_DIR:-.}/jobs}", f"{FOLDER}}}")
    return _SOURCED.sub(text, script)
