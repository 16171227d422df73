"""The command `suite`: what it says, and its exit code. The work is drivers/suite.py's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qafel_mpi.commands import process as job
from qafel_mpi.commands import run as launch
from qafel_mpi.commands import show
from qafel_mpi.commands.interrupt import Interrupt
from qafel_mpi.commands.options import CheckpointEvery, DataDir, Overrides
from qafel_mpi.commands.process import ExitCode
from qafel_mpi.config_text import parse_seeds
from qafel_mpi.drivers.survival.every import DEFAULT, Every

if TYPE_CHECKING:
    from mpi4py import MPI

    from qafel_mpi.config import Experiment
    from qafel_mpi.drivers.build import RunSummary
    from qafel_mpi.drivers.suite_plan import SuiteRun


EXAMPLES = (
    "Examples:\n\n  mpirun -n 4 qafel-mpi suite digits --seeds 0-2 --out runs/digits\n\n"
    "  mpirun -n 3 qafel-mpi suite mushrooms-qsgd --seeds 0-4 --out runs/mushrooms\n\n"
    "  qafel-mpi suite celeba-grid --seeds 0,1,2 --out runs/grid --show     [dim]what is left[/dim]\n\n"
    "  qafel-mpi suite celeba-grid --seeds 3 --variant fedbuff --out runs/grid"
)


def suite(
    name: Annotated[
        str, typer.Argument(metavar="SUITE", help="An experiment that has variants: a name or a TOML file.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the traces, one per run: DIR/VARIANT-seedN.h5.")
    ],
    seeds: Annotated[str, typer.Option(metavar="LIST", help="Seeds, such as 0-4 or 0,3,7.")] = "0",
    only: Annotated[
        list[str] | None,
        typer.Option("--variant", metavar="NAME", help="Run only this variant. Can be repeated."),
    ] = None,
    overrides: Overrides = None,
    data_dir: DataDir = None,
    pick: Annotated[
        int | None,
        typer.Option(
            "--run",
            min=0,
            metavar="N",
            help="Run only number N, counted from 0, as a task of a job array does.",
        ),
    ] = None,
    require_target: Annotated[
        bool, typer.Option("--require-target", help="Exit with 4 if a run does not reach its target.")
    ] = False,
    every: CheckpointEvery = None,
    show_only: Annotated[
        bool, typer.Option("--show", help="Show what is done and what is left, and run nothing.")
    ] = False,
) -> None:
    """Run an experiment with all its variants and seeds. Continue where an earlier call stopped.

    A run is done when its trace exists, is complete and has the same settings. One that was cut short goes on from
    its last checkpoint.
    """
    often = Every.parsed(every)
    with job.all_ranks_end(), Interrupt(job.end_now) as interrupted:
        job.load()
        comm = job.world(ask_mpi=not show_only)
        chosen, settings = list(only or []), list(overrides or [])
        if show_only:
            plan = job.from_rank_0(comm, lambda: look(name, seeds, chosen, settings, out, alone=comm is None))
            if comm is None or comm.rank == 0:
                print(plan["overview"])
            return

        def prepared() -> dict[str, Any]:
            return {"data_dir": launch.data_folder(data_dir)}

        plan = job.from_rank_0(comm, prepared)
        here = data_dir or launch.own_data_dir() or Path(plan["data_dir"])
        interrupted.recorded = "the same command continues from here"
        code = carry_out(
            name, seeds, chosen, settings, out, comm, here, interrupted, require_target, pick, often
        )
    job.leave(code)


def look(
    name: str, seeds: str, only: list[str], settings: list[str], out: Path, alone: bool
) -> dict[str, Any]:
    """The overview of what is done and what is left, for `--show`. Raises ConfigError."""
    from qafel_mpi.drivers.suite_plan import plan

    runs = plan(name, parse_seeds(seeds), out, settings, only, _resolver(alone))
    return {"overview": overview(runs)}


def carry_out(
    name: str,
    seeds: str,
    only: list[str],
    settings: list[str],
    out: Path,
    comm: MPI.Intracomm | None,
    data_dir: Path,
    interrupted: Interrupt,
    require_target: bool = False,
    pick: int | None = None,
    every: Every = DEFAULT,
) -> ExitCode:
    """Collective: what is left of the suite; the overview on stdout. Raises ConfigError on every rank alike."""
    from qafel_mpi.drivers.suite import run_suite
    from qafel_mpi.drivers.suite_plan import TARGET_REACHED

    def drive(one: SuiteRun, own: MPI.Intracomm | None) -> RunSummary:
        plan = {"name": one.name, "experiment": one.experiment, "out": one.out}
        plan |= {"resume": one.checkpoint} if one.checkpoint else {}
        return launch.drive(plan, own, data_dir, interrupted, every)

    result = run_suite(
        name,
        parse_seeds(seeds),
        out,
        settings,
        comm,
        drive=drive,
        only=only,
        pick=pick,
        resolve=_resolver(alone=comm is None),
        interrupted=interrupted,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    elsewhere = sum(run.under_way for run in result.runs)
    if comm is None or comm.rank == 0:
        print(overview(result.runs))
        if result.interrupted:
            print("interrupted; the same command continues from here", file=sys.stderr)
        elif elsewhere:
            print(
                f"{elsewhere} in progress in other processes; run the same command later for what they leave",
                file=sys.stderr,
            )
    if result.interrupted:
        return ExitCode.INTERRUPTED
    if result.failed:
        return ExitCode.FAILED
    if elsewhere:
        return ExitCode.INTERRUPTED  # not all is done, and nothing is wrong: a job script tries again
    missed = require_target and any(run.outcome != TARGET_REACHED for run in result.runs)
    return ExitCode.TARGET_NOT_REACHED if missed else ExitCode.DONE


def _resolver(alone: bool) -> Callable[[str, Sequence[str], str], Experiment]:
    return lambda name, settings, variant: launch.resolve(name, list(settings), variant, alone)


def overview(runs: Sequence[SuiteRun]) -> str:
    """A line a run: what is done, with its result, and what is left; at the end what that may take."""
    from qafel_mpi.drivers.suite_plan import standing

    return f"{show.table([_row(run) for run in runs])}\n{standing(runs)}"


def _row(run: SuiteRun) -> dict[str, Any]:
    found = _attributes(Path(run.out)) if run.done else {}
    target = int(found.get("uploads_to_target", -1))
    waits = f"left to run ({run.outcome})" if run.outcome else "left to run"
    return {
        "variant": run.variant,
        "seed": run.seed,
        "outcome": run.outcome if run.done or run.failed or run.under_way else waits,
        "uploads": found.get("uploads"),
        "to target": target if target >= 0 else None,
        "accuracy": f"{found['accuracy']:.4f}" if found else None,
        "loss": f"{found['loss']:.6g}" if found else None,
        "MB up": f"{found['payload_bytes_up'] / 1e6:.2f}" if found else None,
    }


def _attributes(path: Path) -> dict[str, Any]:
    from qafel_mpi.trace.reader import open_trace

    with open_trace(path) as trace:
        return trace.attributes
