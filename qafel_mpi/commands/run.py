"""The command `run`: plan on rank 0, drive on all ranks, an exit code for the result."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qafel_mpi.commands import process as job
from qafel_mpi.commands import show
from qafel_mpi.commands.instructions import HoldDown, hold_down, require
from qafel_mpi.commands.interrupt import Interrupt
from qafel_mpi.commands.names import given_up, make_room, take_free_name
from qafel_mpi.commands.options import CheckpointEvery, DataDir, Overrides
from qafel_mpi.commands.process import ExitCode
from qafel_mpi.config_text import ConfigError
from qafel_mpi.drivers.survival.every import DEFAULT, Every

if TYPE_CHECKING:
    from mpi4py import MPI

    from qafel_mpi.config import Experiment
    from qafel_mpi.drivers.build import RunSummary


EXAMPLES = (
    "Examples:\n\n"
    "  qafel-mpi run digits                 [dim]one process, virtual clock[/dim]\n\n"
    "  mpirun -n 4 qafel-mpi run digits --set server.buffer_size=20 --out runs/a.h5\n\n"
    "  mpirun -n 4 qafel-mpi run digits --set algorithm=fedbuff --seed 1 --target-accuracy 0.9\n\n"
    "  qafel-mpi run my.toml --set task.partition.alpha=0.1 --set uplink.codec=affine\n\n"
    "  mpirun -n 4 qafel-mpi run --resume runs/a.h5     [dim]go on from its last checkpoint[/dim]\n\n"
    "Exit codes: 0 done, 2 bad usage or data, 3 failed, 4 target not reached (--require-target), "
    "75 interrupted: `--resume` goes on."
)


def run(
    name: Annotated[
        str | None,
        typer.Argument(metavar="EXPERIMENT", help="A name from `qafel-mpi list` or a TOML file."),
    ] = None,
    overrides: Overrides = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Seed of all random numbers. It alone decides a run on the virtual clock; on the wall clock "
            "the ranks' timing decides too.",
        ),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run this variant of the experiment.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The trace to write. Default: runs/EXPERIMENT-ALGORITHM-seedN.h5."),
    ] = None,
    target_accuracy: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Stop when the test accuracy reaches this value, a share of 1."),
    ] = None,
    require_target: Annotated[
        bool, typer.Option("--require-target", help="Exit with 4 if the target is not reached.")
    ] = False,
    every: CheckpointEvery = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Go on with the run of this trace, from its last checkpoint, in place of EXPERIMENT.",
        ),
    ] = None,
    data_dir: DataDir = None,
    hold: HoldDown = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing trace.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run one experiment and write its trace.

    Under mpirun, rank 0 is the server and the other ranks are its clients. Without it one process runs the
    experiment on the virtual clock.
    """
    refuse_contradictions(name, resume, [overrides, seed, variant, out, target_accuracy, overwrite or None])
    often = Every.parsed(every)
    settings = list(overrides or [])
    settings += [f"seed={seed}"] if seed is not None else []
    settings += [f"stop.accuracy={target_accuracy!r}"] if target_accuracy is not None else []
    # From here on: torch and MPI take seconds to load.
    with job.all_ranks_end(), Interrupt(job.end_now) as interrupted:
        hold_down(hold)
        job.load()
        comm = job.world()

        def prepared() -> dict[str, Any]:
            require(hold)
            if resume is not None:
                return plan_again(resume, data_dir, alone=comm is None)
            return plan(str(name), settings, variant, out, data_dir, overwrite, comm is None, often)

        with given_up():
            planned = job.from_rank_0(comm, prepared)
            here = data_dir or own_data_dir() or Path(planned["data_dir"])
            if comm is None or comm.rank == 0:
                print(where_it_goes(Path(planned["out"])), file=sys.stderr, flush=True)
            interrupted.recorded = to_merge(Path(planned["out"]))
            result = drive(planned, comm, here, interrupted, often)
            if comm is None or comm.rank == 0:
                print(show.summary_json(result) if as_json else show.summary(result))
    job.leave(exit_code(result, require_target))


def where_it_goes(out: Path) -> str:
    """Said before the run: a launcher that is interrupted passes nothing on that its ranks say afterwards."""
    return f"trace: {out}; if the job is ended before its summary, look there, or {to_merge(out)}"


def to_merge(out: Path) -> str:
    """The command that makes a trace of what a run has recorded that did not come to its end."""
    return f"`qafel-mpi merge {out.with_suffix('.shards')}`"


def what_is_left(out: Path) -> str:
    """Of a run that has failed, in words; empty where it has recorded nothing."""
    from qafel_mpi.trace.claim import holds_a_run
    from qafel_mpi.trace.merge import shards_of

    return f"{to_merge(out)} makes a trace of what was recorded" if holds_a_run(shards_of(out)) else ""


def plan(
    name: str,
    settings: list[str],
    variant: str | None,
    out: Path | None,
    data_dir: Path | None,
    overwrite: bool,
    alone: bool,
    every: Every = DEFAULT,
) -> dict[str, Any]:
    """What rank 0 tells the others: the experiment, checked and complete, and where files go."""
    from qafel_mpi.config import refuse_other_clock, to_toml

    experiment = resolve(name, settings, variant, alone)
    refuse_other_clock(settings, experiment.clock.kind)
    if alone and experiment.clock.kind == "virtual":
        print(
            "running in one process on the virtual clock; use `mpirun -n 4` to run it in real time",
            file=sys.stderr,
        )
    parts = (Path(name).stem, variant or experiment.algorithm, f"seed{experiment.seed}")
    go_on = experiment.trace.on_error == "go on"
    if out is None:
        out = take_free_name(Path("runs"), "-".join(parts), go_on=go_on)
    else:
        make_room(out, overwrite, go_on=go_on)
    return {
        "name": Path(name).stem,
        "experiment": to_toml(experiment),
        "out": str(out.absolute()),
        "data_dir": data_folder(data_dir),
    }


def refuse_contradictions(name: str | None, resume: Path | None, with_name: Sequence[object]) -> None:
    """Raise ConfigError: a run has an experiment, or goes on; with_name: options that go with the former alone."""
    if resume is None and name is None:
        raise ConfigError(
            ["EXPERIMENT is missing: a name from `qafel-mpi list`, a TOML file, or --resume FILE"]
        )
    if resume is not None and name is not None:
        raise ConfigError([f"--resume {resume}: the experiment is in its checkpoint; leave {name} out"])
    if resume is not None and any(option is not None for option in with_name):
        raise ConfigError(
            [
                f"--resume {resume}: the settings are those of its checkpoint; leave --set, --seed, --variant, "
                "--out, --target-accuracy and --overwrite out"
            ]
        )


def plan_again(out: Path, data_dir: Path | None, alone: bool) -> dict[str, Any]:
    """`plan` of a run that goes on from its last checkpoint. Raises ConfigError."""
    from qafel_mpi.drivers.survival.container import CheckpointError
    from qafel_mpi.drivers.survival.resume import look

    if out.suffix != ".h5":
        raise ConfigError([f"--resume {out}: give the run's trace, RUN.h5, whether it is there yet or not"])
    try:
        path, state = look(out)
    except CheckpointError as error:
        raise ConfigError([f"--resume {error}"]) from None
    about = state["about"]
    if alone and about["clock"] == "wall":
        raise ConfigError(
            [
                f"--resume {out}: a run on the wall clock, of {about['ranks']} ranks: "
                f"`mpirun -n {about['ranks']} qafel-mpi run --resume {out}`"
            ]
        )
    return {
        "name": out.stem,
        "experiment": about["experiment"],
        "out": str(out.absolute()),
        "data_dir": data_folder(data_dir),
        "resume": str(path.absolute()),
    }


def resolve(name: str, settings: list[str], variant: str | None, alone: bool) -> Experiment:
    """The experiment; in a process on its own the wall clock gives way to the virtual one.

    Raises ConfigError, also where the wall clock was asked for by name.
    """
    from qafel_mpi.config import load

    experiment = load(name, settings, variant)
    if not alone or experiment.clock.kind == "virtual" or experiment.task.clients == "ranks":
        return experiment  # of no use to simulate: one client a rank needs ranks, and the driver says so
    if any(setting.replace(" ", "").startswith("clock.kind=") for setting in settings):
        raise ConfigError(
            [
                "clock.kind = 'wall' needs a server and at least one client, each a process: start it as "
                f"`mpirun -n 4 qafel-mpi run {name} ...`, or leave clock.kind out to run it in this one process "
                "on the virtual clock"
            ]
        )
    return load(name, [*settings, "clock.kind=virtual"], variant)


def own_data_dir() -> Path | None:
    """Each host may keep its data elsewhere; where it does not say, rank 0's folder is looked in."""
    given = os.environ.get("QAFEL_DATA_DIR")
    return Path(given).expanduser() if given else None


def data_folder(option: Path | None) -> str:
    """Where this rank looks for data, as an absolute path."""
    return str((option or own_data_dir() or cache()).absolute())


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "qafel_mpi"


def drive(
    plan: dict[str, Any],
    comm: MPI.Intracomm | None,
    data_dir: Path,
    interrupted: Interrupt,
    every: Every = DEFAULT,
) -> RunSummary:
    """Collective: run what rank 0 has planned."""
    from mpi4py import MPI

    from qafel_mpi.config import from_toml
    from qafel_mpi.drivers.part import run_on_first

    job.say_after_a_failure(lambda: what_is_left(Path(plan["out"])))
    interrupted.starting()  # MPI is up: the signals are the command's again
    experiment = from_toml(plan["experiment"])
    driver = importlib.import_module(f"qafel_mpi.drivers.{experiment.clock.kind}.run")  # wall or virtual
    with show.progress(experiment.stop, plan["name"]) as report:

        def work(ranks: MPI.Intracomm) -> RunSummary:
            summary: RunSummary = driver.run(
                experiment,
                ranks,
                Path(plan["out"]),
                data_dir=data_dir,
                command_line=sys.argv,
                interrupted=interrupted,
                report=report,
                every=every,
                resume=Path(plan["resume"]) if "resume" in plan else None,
            )
            return summary

        everyone = comm or MPI.COMM_SELF
        return run_on_first(everyone, experiment.transport.ranks or everyone.size, work)


def exit_code(result: RunSummary, require_target: bool) -> ExitCode:
    if result.interrupted:
        return ExitCode.INTERRUPTED
    if result.outcome.startswith("failed"):
        return ExitCode.FAILED
    if require_target and not result.target_reached:
        return ExitCode.TARGET_NOT_REACHED
    return ExitCode.DONE
