"""The command `bench chaos`: its options; bench/chaos/ starts the runs and hurts them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from qafel_mpi.commands.bench.measure import Output, run, say
from qafel_mpi.commands.bench.options import SECONDS, WIDTH, Json, Out, Reference
from qafel_mpi.commands.options import Overrides

if TYPE_CHECKING:
    from mpi4py import MPI

    from qafel_mpi.bench.measuring.result import Row
    from qafel_mpi.bench.measuring.timing import Limits

EXAMPLES = (
    "Examples:\n\n  qafel-mpi bench chaos --minutes 30 --json chaos.json\n\n"
    "  qafel-mpi bench chaos --faults kill,cut --every 10 --ranks 4 --minutes 2\n\n"
    "It starts mpirun itself, with Open MPI's ULFM."
)
PAUSE = "client.pause_seconds=0.02"  # a client's pace is its own, however many ranks share its core


def chaos(
    experiment: Annotated[
        str, typer.Argument(metavar="EXPERIMENT", help="A name from `qafel-mpi list` or a TOML file.")
    ] = "digits",
    overrides: Overrides = None,
    minutes: Annotated[
        float, typer.Option(min=0.05, help="Minutes under faults; a third of it without.")
    ] = 30.0,
    faults: Annotated[
        str, typer.Option("--faults", metavar="LIST", help="Kinds of faults: kill, stop, slow, cut.")
    ] = "kill,stop,slow,cut",
    every: Annotated[
        float, typer.Option(min=1.0, metavar="SECONDS", help="From one fault to the next.")
    ] = 20.0,
    ranks: Annotated[int, typer.Option(min=3, help="Ranks of the runs, with the server.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the faults' schedule.")] = 0,
    checkpoint_every: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="SECONDS", help="From one checkpoint to the next; a cut loses what follows."
        ),
    ] = 1.0,
    json: Json = None,
    out: Out = None,
    reference: Reference = None,
) -> None:
    """Run an experiment under a seeded schedule of faults, in turns with the same run without faults.

    kill: SIGKILL to a client rank. stop: a client rank is stopped for some seconds. slow: it has half of its time.
    cut: SIGKILL to the whole job, which goes on from its last checkpoint with all ranks. At least half of the client
    ranks live at any time. goodput: used updates per second of a client rank that could work, over that without.
    Under faults checkpoints come more often than by default, and what they cost counts as lost.
    wrong: runs that did not finish, whose ranks ended with different hidden states, or whose replay differs.
    """
    from qafel_mpi.config_text import choices

    kinds = choices("--faults", faults, ("kill", "stop", "slow", "cut"))

    def measure(comm: MPI.Intracomm, limits: Limits) -> Iterable[Row]:
        from qafel_mpi.bench.chaos.turns import Plan, rows

        settings = ["clock.kind=wall", PAUSE, *(overrides or [])]
        plan = Plan(experiment, settings, kinds, ranks, 60 * minutes, every, seed, checkpoint_every)
        return rows(plan, say)

    run("chaos", measure, Output(json, out, reference), seconds=SECONDS, width=WIDTH)
