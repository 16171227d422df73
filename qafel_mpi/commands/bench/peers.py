"""The command `qafel-mpi bench peers`: other frameworks at the same work as ours.

numpy, torch and mpi4py are imported inside the command.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qafel_mpi.commands.bench import ourselves
from qafel_mpi.commands.bench.measure import Output, run, say
from qafel_mpi.commands.bench.options import Json, Out, Reference, Seconds, Width

if TYPE_CHECKING:
    from mpi4py import MPI

    from qafel_mpi.bench.measuring.result import Row
    from qafel_mpi.bench.measuring.timing import Limits

EXAMPLES = (
    "Examples:\n\n  qafel-mpi bench peers --install     once: makes the environments, from the package index\n\n"
    "  qafel-mpi bench peers --json peers.json\n\n"
    "  qafel-mpi bench peers --peer pfl --model mlp --cohort 10"
)


def peers(
    folder: Annotated[
        Path, typer.Option("--environments", metavar="DIR", help="A virtual environment a peer.")
    ] = Path("runs/peer-environments"),
    install: Annotated[
        bool, typer.Option("--install", help="Make the environments that are not there, and measure nothing.")
    ] = False,
    peer: Annotated[str, typer.Option(metavar="LIST", help="Peers. Left out: all.")] = "",
    model: Annotated[
        str, typer.Option(metavar="LIST", help="mlp: the digits' MLP; cnn: the paper's.")
    ] = "mlp,cnn",
    algorithm: Annotated[
        str, typer.Option(metavar="LIST", help="fedavg, fedbuff; qafel: ours alone, with 4 bits both ways.")
    ] = "fedavg,fedbuff,qafel",
    cohort: Annotated[
        str, typer.Option(metavar="LIST", help="Clients of a round, or that train at the same time: 10, 100.")
    ] = "10,100",
    updates: Annotated[
        int, typer.Option(min=0, help="Client updates of a sample. 0: by model and cohort.")
    ] = 0,
    samples: Annotated[int, typer.Option(min=1, help="Samples of each, at least.")] = 6,
    seconds: Seconds = 30.0,
    width: Width = 0.05,
    json: Json = None,
    out: Out = None,
    reference: Reference = None,
) -> None:
    """Let other frameworks do the same work as ours, in turns on one core: speed, memory, bytes, accuracy.

    Each peer has a recipe in qafel_mpi/bench/peers, and an environment of its own: DIR/PEER. Peers without one are
    left out. Ratio: a peer's time for an update over ours. A row is void where the peer did not learn what ours did.
    """
    from qafel_mpi.bench.peers import environments, rows, work
    from qafel_mpi.config_text import choices, whole_numbers

    names = choices("--peer", peer or ",".join(environments.NAMES), environments.NAMES)
    models = choices("--model", model, work.MODELS)
    algorithms = choices("--algorithm", algorithm, work.ALGORITHMS)
    cohorts = whole_numbers("--cohort", cohort, 1, work.CLIENTS)
    if install:
        for name in [name for name in names if name not in environments.installed(folder, names)]:
            say(f"{name}: makes {folder / name}")
            environments.make(folder, name)
        return
    parts = [
        work.Part(m, a, c, updates or work.usual_updates(m, c))
        for m in models
        for a in algorithms
        for c in cohorts
    ]

    def measure(comm: MPI.Intracomm, limits: Limits) -> Iterable[Row]:
        if comm.rank != 0:
            return []
        found = environments.installed(folder, names)
        for name in names:
            if name not in found:
                say(f"{name} is left out: no {folder / name}; `qafel-mpi bench peers --install` makes it")
        mine = rows.ourselves(Path(ourselves.__file__))
        everyone = [mine, *(rows.contender(name, python) for name, python in found.items())]
        return rows.rows(everyone, parts, replace(limits, least=samples, warmups=1), say)

    run("peers", measure, Output(json, out, reference), seconds=seconds, width=width)
