"""The command `qafel-mpi`: understand the line, call one command, give an exit code; a file a command.

mpi4py, h5py and torch are imported inside the commands that need them: help and lists are instant.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from qafel_mpi.commands import crate, info, list, merge, replay, run, schema, seal, settings, suite
from qafel_mpi.commands import process as job
from qafel_mpi.commands.bench.app import bench
from qafel_mpi.commands.data import data
from qafel_mpi.commands.environment import ready_mpi
from qafel_mpi.commands.help import App
from qafel_mpi.commands.jobs.app import jobs
from qafel_mpi.commands.process import ExitCode
from qafel_mpi.stdio import make_steadfast

app = App(
    name="qafel-mpi",
    help="Benchmark asynchronous federated learning with quantized messages in both directions, over MPI.",
    epilog="Examples:\n\n"
    "  qafel-mpi list\n\n"
    "  qafel-mpi run digits\n\n"
    "  mpirun -n 4 qafel-mpi run digits --out runs/a.h5\n\n"
    "Each command has examples of its own: qafel-mpi run --help",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command(epilog=run.EXAMPLES)(run.run)
app.command(epilog=replay.EXAMPLES)(replay.replay)
app.command(epilog=suite.EXAMPLES)(suite.suite)
app.command("list", epilog=list.EXAMPLES)(list.list_)
app.command(epilog=settings.EXAMPLES)(settings.settings)
app.command(epilog=schema.EXAMPLES)(schema.schema)
app.command(epilog=info.EXAMPLES)(info.info)
app.add_typer(data, name="data")
app.command(epilog=merge.EXAMPLES)(merge.merge)
app.command(epilog=seal.EXAMPLES)(seal.seal)
app.command(epilog=crate.EXAMPLES)(crate.crate)
app.add_typer(bench, name="bench")
app.add_typer(jobs, name="jobs")


def expanded(word: str) -> str:
    """A word of the command line with its ~ expanded: shells leave that in `--out=~/a.h5` as it is."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + (os.path.expanduser(value) if value.startswith("~") else value)


def main() -> None:
    """The console script. Under mpirun only rank 0 speaks, and every rank ends with the same code."""
    make_steadfast("qafel-mpi")
    sys.argv[1:] = map(expanded, sys.argv[1:])
    ready_mpi()
    rank = job.launcher_rank()
    if rank:
        job.mute()
    try:
        with job.all_ranks_end(exits=False):  # the commands say what is no exit of theirs
            app()
    except SystemExit as end:
        wrong_line = end.code == ExitCode.USAGE  # on every rank
        if rank is not None and end.code and (wrong_line or isinstance(end, job.AllLeave)):
            job.leave_together()
        job.part()
        raise


@app.callback(invoke_without_command=True)
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if show_version:
        print(f"qafel-mpi {version('qafel-mpi')}")
        raise typer.Exit
