"""The command `qafel-mpi bench server`: what receiving uploads and making server steps costs.

numpy, torch and mpi4py are imported inside the command.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from qafel_mpi.commands.bench.measure import Output, run
from qafel_mpi.commands.bench.options import SECONDS, WIDTH, Elements, Json, Out, Reference, Seconds, Width
from qafel_mpi.commands.bench.parts import that_fit

if TYPE_CHECKING:
    from mpi4py import MPI

    from qafel_mpi.bench.measuring.result import Row
    from qafel_mpi.bench.measuring.timing import Limits

EXAMPLES = (
    "Examples:\n\n  qafel-mpi bench server --json server.json\n\n"
    "  qafel-mpi bench server --algorithm qafel --d 11689512 --buffer 1,10 --threads 1,2\n\n"
    "  qafel-mpi bench server --algorithm qafel --set uplink.codec=eden --set downlink.codec=eden\n\n"
    "  qafel-mpi bench server --algorithm qafel --d 29282 --set 'uplink.rules=[{max_rank=1,codec=\"identity\"}]'"
)


def server(
    algorithms: Annotated[
        str, typer.Option("--algorithm", metavar="LIST", help="Presets, such as qafel,fedbuff,fadas.")
    ] = "qafel,fedbuff",
    d: Elements = "29282,1000000,11689512",
    buffer: Annotated[str, typer.Option(metavar="LIST", help="K: uploads of a step.")] = "10",
    threads: Annotated[str, typer.Option(metavar="LIST", help="Numbers of threads.")] = "1",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the experiment (server, uplink, downlink, staleness) for all rows. Can be repeated.",
        ),
    ] = None,
    seconds: Seconds = SECONDS,
    width: Width = WIDTH,
    json: Json = None,
    out: Out = None,
    reference: Reference = None,
) -> None:
    """Time the server's own work, against memory passes with the same reads and writes: receive, step and both.

    receive is one upload, decoded and added. step moves the model, encodes the broadcast, and takes the trace's
    norms. both is K uploads and their step. The server's settings are those of the experiment digits: momentum 0.3.
    copies, in the files, is the time in copies of the vector. With rules, whose tensors are those of the paper's CNN
    (29,282 elements), ResNet-18 (11,689,512) or GPT-2 (124,439,808), over_plain is the time over the same server's
    without them, in turns.
    """
    from qafel_mpi.config_text import whole_numbers

    names = [name.strip() for name in algorithms.split(",")]
    sizes = whole_numbers("--d", d, 1, 2**31)
    buffers = whole_numbers("--buffer", buffer, 1, 2**20)
    counts = whole_numbers("--threads", threads, 1, 1024)

    def measure(comm: MPI.Intracomm, limits: Limits) -> Iterator[Row]:
        from qafel_mpi.bench import server as ours

        if comm.rank != 0:
            return
        fitting = that_fit(sizes, ours.BYTES_PER_ELEMENT)
        points = [
            ours.Point(name, size, k, count, tuple(settings or ()))
            for name in names
            for size in fitting
            for k in buffers
            for count in counts
        ]
        for point in points:
            point.experiment()  # whatever is wrong is said before anything is measured
        yield from ours.rows(points, limits)

    run("server", measure, Output(json, out, reference), seconds=seconds, width=width)
