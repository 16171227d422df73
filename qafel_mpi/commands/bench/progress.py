"""The command `qafel-mpi bench progress`: which MPI library moves a message while a rank computes.

numpy, torch and mpi4py are imported inside the command.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from qafel_mpi.commands.bench.measure import Output, run, say
from qafel_mpi.commands.bench.options import (
    PAYLOADS,
    SECONDS,
    WIDTH,
    Json,
    Out,
    Reference,
    Seconds,
    Sizes,
    Width,
)
from qafel_mpi.commands.bench.parts import sizes_in_bytes

if TYPE_CHECKING:
    from mpi4py import MPI

    from qafel_mpi.bench.measuring.result import Row
    from qafel_mpi.bench.measuring.timing import Limits

EXAMPLES = (
    "Examples:\n\n  mpirun -n 2 qafel-mpi bench progress\n\n"
    "  mpirun -n 2 qafel-mpi bench progress --bytes 15000,46758112 --json progress.json"
)


def progress(
    sizes: Sizes = PAYLOADS,
    seconds: Seconds = SECONDS,
    width: Width = WIDTH,
    json: Json = None,
    out: Out = None,
    reference: Reference = None,
) -> None:
    """Measure what share of a transfer happens while rank 0 computes and makes no MPI call of its own.

    poll makes no call at all meanwhile; with thread, a thread beside the computation looks for messages, as with
    transport.progress = "thread". moved_share is the share that has moved when the computation is done, by how much
    shorter the wait after it is than a whole transfer. Rank 1 waits inside MPI all the time.
    """

    def measure(comm: MPI.Intracomm, limits: Limits) -> Iterable[Row]:
        from qafel_mpi.bench import progress as ours
        from qafel_mpi.bench.measuring.ranks import first
        from qafel_mpi.drivers.wall.client import POLL_SECONDS

        chosen = sizes_in_bytes(sizes)
        return first(comm, 2, lambda pair: ours.rows(pair, limits, chosen, POLL_SECONDS, say))

    run("progress", measure, Output(json, out, reference), seconds=seconds, width=width, ranks=2)
