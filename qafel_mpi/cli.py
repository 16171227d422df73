"""The command `qafel-mpi`: understand the line, call one driver, print its result, give an exit code.

mpi4py, h5py and torch are imported inside the commands that need them: help and lists are instant.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qafel_mpi import cli_job as job
from qafel_mpi import cli_show as show
from qafel_mpi import experiments
from qafel_mpi.cli_job import ExitCode
from qafel_mpi.config_text import ConfigError

if TYPE_CHECKING:
    from qafel_mpi.drivers.build import RunSummary

app = typer.Typer(
    name="qafel-mpi",
    help="Asynchronous federated learning with quantized messages in both directions, over MPI.",
    epilog="Examples:\n\n"
    "  qafel-mpi list\n\n"
    "  qafel-mpi run digits\n\n"
    "  mpirun -n 4 qafel-mpi run digits --out runs/a.h5\n\n"
    "Each command has its own: qafel-mpi run --help",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Data sets: fetch them.", no_args_is_help=True)
app.add_typer(data, name="data")


def main() -> None:
    """The console script. Under mpirun only rank 0 speaks, and every rank ends with the same code."""
    rank = job.launcher_rank()
    if rank:
        job.mute()
    try:
        with job.all_ranks_end(None):  # what is raised here is raised on every rank alike
            app()
    except SystemExit as end:
        if end.code == ExitCode.USAGE and rank is not None:
            job.leave_together()
        raise


@app.callback(invoke_without_command=True)
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)
    ] = False,
) -> None:
    if show_version:
        print(f"qafel-mpi {version('qafel-mpi')}")
        raise typer.Exit


# --- run --------------------------------------------------------------------------------------------


@app.command(
    epilog="Examples:\n\n"
    "  qafel-mpi run digits                 [dim]one process, virtual clock[/dim]\n\n"
    "  mpirun -n 4 qafel-mpi run digits --set server.buffer_size=20 --out runs/a.h5\n\n"
    "  mpirun -n 4 qafel-mpi run digits --set algorithm=fedbuff --seed 1 --target-accuracy 0.9\n\n"
    "  qafel-mpi run my.toml --set task.partition.alpha=0.1 --set uplink.codec=affine\n\n"
    "Exit codes: 0 done, 2 bad usage or data, 3 failed, 4 target not reached (--require-target), "
    "75 interrupted.",
)
def run(
    name: Annotated[
        str, typer.Argument(metavar="EXPERIMENT", help="A name from `qafel-mpi list`, or a TOML file.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; may be repeated."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The run is a function of it.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The trace. Default: runs/EXPERIMENT-ALGORITHM-seedN.h5."),
    ] = None,
    target_accuracy: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Stop when the test accuracy reaches this.")
    ] = None,
    require_target: Annotated[
        bool, typer.Option("--require-target", help="Exit with 4 if the target is not reached.")
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the data sets lie. Default: $QAFEL_DATA_DIR, else ~/.cache/qafel_mpi.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older trace.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run one experiment and write its trace.

    Under mpirun, rank 0 is the server and the other ranks are its clients. Without it one process runs the
    experiment on the virtual clock.
    """
    settings = list(overrides or [])
    settings += [f"seed={seed}"] if seed is not None else []
    settings += [f"stop.accuracy={target_accuracy!r}"] if target_accuracy is not None else []
    comm = job.world()
    plan = job.from_rank_0(comm, lambda: _plan(name, settings, out, data_dir, overwrite, alone=comm is None))
    here = data_dir or _own_data_dir()
    with job.all_ranks_end(comm):
        result = _drive(plan, comm, here or Path(plan["data_dir"]))
        if comm is None or comm.rank == 0:
            print(json.dumps(asdict(result), indent=1) if as_json else show.summary(result))
    sys.exit(_exit_code(result, require_target))


def _plan(
    name: str, settings: list[str], out: Path | None, data_dir: Path | None, overwrite: bool, alone: bool
) -> dict[str, Any]:
    """What rank 0 tells the others: the experiment, checked and complete, and where files go."""
    from qafel_mpi.config import load, to_toml

    experiment = load(name, settings)
    if alone and experiment.clock.kind == "wall":
        if any(setting.replace(" ", "").startswith("clock.kind=") for setting in settings):
            raise ConfigError(
                [
                    "clock.kind = 'wall' needs a server and at least one client, each a process: start it as "
                    f"`mpirun -n 4 qafel-mpi run {name} ...`, or leave clock.kind out to run it in this one process "
                    "on the virtual clock"
                ]
            )
        experiment = load(name, [*settings, "clock.kind=virtual"])
        print("one process: on the virtual clock (mpirun -n 4 runs it in real time)", file=sys.stderr)
    if out is None:
        out = _free_name(Path("runs"), f"{Path(name).stem}-{experiment.algorithm}-seed{experiment.seed}")
    _make_room(out, overwrite)
    return {
        "name": Path(name).stem,
        "experiment": to_toml(experiment),
        "out": str(out.absolute()),
        "data_dir": str((data_dir or _own_data_dir() or _cache()).absolute()),
    }


def _free_name(folder: Path, stem: str) -> Path:
    path, number = folder / f"{stem}.h5", 1
    while path.exists() or path.with_suffix(".shards").exists():
        number += 1
        path = folder / f"{stem}-{number}.h5"
    return path


def _make_room(out: Path, overwrite: bool) -> None:
    """See that the trace can be written before any time is spent. Raises ConfigError."""
    shards = out.with_suffix(".shards")
    if out.suffix != ".h5":
        raise ConfigError([f"--out {out}: a trace is an HDF5 file: {out.stem or 'a'}.h5"])
    if shards.exists() and not overwrite:
        raise ConfigError(
            [
                f"--out {out}: {shards} holds a run that was cut short; `qafel-mpi merge {shards}`, or --overwrite"
            ]
        )
    if out.exists() and not overwrite:
        raise ConfigError([f"--out {out}: exists already; --overwrite replaces it"])
    try:
        shutil.rmtree(shards, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"--out {out}: {error.strerror}: {out.parent}"]) from None
    if not os.access(out.parent, os.W_OK):
        raise ConfigError([f"--out {out}: {out.parent} can't be written to"])


def _own_data_dir() -> Path | None:
    """Each host may keep its data elsewhere; where it does not say, rank 0's folder is looked in."""
    given = os.environ.get("QAFEL_DATA_DIR")
    return Path(given).expanduser() if given else None


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "qafel_mpi"


def _drive(plan: dict[str, Any], comm: Any, data_dir: Path) -> RunSummary:
    import importlib

    from mpi4py import MPI

    from qafel_mpi.config import from_toml

    experiment = from_toml(plan["experiment"])
    driver = importlib.import_module(f"qafel_mpi.drivers.{experiment.clock.kind}")  # wall or virtual
    with job.Interrupt() as interrupted, show.progress(experiment.stop, plan["name"]) as report:
        result: RunSummary = driver.run(
            experiment,
            comm or MPI.COMM_SELF,
            Path(plan["out"]),
            data_dir=data_dir,
            command_line=sys.argv,
            interrupted=interrupted,
            report=report,
        )
    return result


def _exit_code(result: RunSummary, require_target: bool) -> ExitCode:
    if result.interrupted:
        return ExitCode.INTERRUPTED
    if result.outcome.startswith("failed"):
        return ExitCode.FAILED
    if require_target and not result.target_reached:
        return ExitCode.TARGET_NOT_REACHED
    return ExitCode.DONE


# --- list, info, data, merge ------------------------------------------------------------------------

_NEEDS_NO_FILES = ("digits", "synthetic")


@app.command("list", epilog="Example:\n\n  qafel-mpi list | grep cifar10")
def list_() -> None:
    """List the named experiments, one a line."""
    names = experiments.names()
    width = max(map(len, names))
    for name in names:
        tables = experiments.tables(name)
        dataset = tables.get("task", {}).get("dataset", "digits")
        needs = "" if dataset in _NEEDS_NO_FILES else f" [needs data: {dataset}]"
        variants = f" [{len(tables['variants'])} variants]" if "variants" in tables else ""
        print(f"{name:<{width}}  {tables.get('description', '')}{variants}{needs}")


@app.command(
    epilog="Examples:\n\n  qafel-mpi merge runs/a.shards\n\n  qafel-mpi merge runs/a.shards --out rescued.h5"
)
def merge(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of shards, NAME.shards.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The trace. Default: NAME.h5 beside the folder.")
    ] = None,
) -> None:
    """Make the trace file of a run that was cut short, from all that its ranks had written."""
    from qafel_mpi.trace.merge import merge as merge_shards

    merged = merge_shards(directory, out)
    print(f"{merged.path}: {', '.join(f'{rows:,} {table}' for table, rows in merged.rows.items())}")
    for shard, size in merged.lost.items():
        print(f"{shard}: the last {size} bytes were cut off by the crash and are left out", file=sys.stderr)
