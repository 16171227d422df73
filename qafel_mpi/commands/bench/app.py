"""The commands `qafel-mpi bench …`: their options; parts.py says what they run, measure.py runs it.

numpy, mpi4py and h5py are imported inside the commands that need them.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from qafel_mpi import startup as marks
from qafel_mpi.commands import process as job
from qafel_mpi.commands.bench import chaos, codec, files, parts, peers, progress, server, site
from qafel_mpi.commands.bench.measure import Output, run
from qafel_mpi.commands.bench.options import (
    PAYLOADS,
    SECONDS,
    UPLOADS,
    WIDTH,
    Json,
    Out,
    Parameters,
    Reference,
    Seconds,
    Sizes,
    Width,
)
from qafel_mpi.commands.help import App

if TYPE_CHECKING:
    from mpi4py import MPI

    from qafel_mpi.bench.measuring.result import Row
    from qafel_mpi.bench.measuring.timing import Limits

bench = App(
    help="Measure codecs, transport and drivers against references that are sampled alternately with them.",
    epilog="Examples:\n\n  mpirun -n 2 qafel-mpi bench p2p --json p2p.json\n\n"
    "  mpirun -n 4 qafel-mpi bench all --out bench.h5\n\n"
    "  qafel-mpi bench check bench.h5\n\n  qafel-mpi bench compare old.h5 new.h5\n\n"
    "Exit codes: 0 done, 2 bad usage, 3 failed or wrong content, 4 a reference was missed or a result is unreliable.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


# --- the benchmarks -----------------------------------------------------------------------------------------


bench.command(epilog=codec.EXAMPLES)(codec.codec)
bench.command(epilog=server.EXAMPLES)(server.server)
bench.command(epilog=progress.EXAMPLES)(progress.progress)
bench.command(epilog=chaos.EXAMPLES)(chaos.chaos)


@bench.command(
    epilog="Examples:\n\n  mpirun -n 2 qafel-mpi bench p2p\n\n"
    "  mpirun -n 2 qafel-mpi bench p2p --from 1024 --to 65536 --json p2p.json --reference site.toml",
)
def p2p(
    smallest: Annotated[
        int, typer.Option("--from", min=1, metavar="BYTES", help="The smallest payload.")
    ] = 8,
    largest: Annotated[
        int,
        typer.Option(
            "--to", min=1, metavar="BYTES", help="The largest payload. Sizes between are powers of two."
        ),
    ] = 4 << 20,
    seconds: Seconds = SECONDS,
    width: Width = WIDTH,
    json: Json = None,
    out: Out = None,
    reference: Reference = None,
) -> None:
    """Measure latency and bandwidth of messages between ranks 0 and 1, against raw mpi4py in the same run.

    The rows "vector" and "vector bandwidth" encode a vector to 4 bits, send and decode it. Their reference sends the
    vector as float32 with raw mpi4py.
    """
    run(
        "p2p",
        parts.p2p(smallest, largest),
        Output(json, out, reference),
        seconds=seconds,
        width=width,
        ranks=2,
    )


@bench.command(
    epilog="Examples:\n\n  mpirun -n 2 qafel-mpi bench ingest\n\n"
    "  mpirun -n 8 qafel-mpi bench ingest --bytes 15000 --json ingest.json",
)
def ingest(
    sizes: Sizes = PAYLOADS,
    seconds: Seconds = SECONDS,
    width: Width = WIDTH,
    json: Json = None,
    out: Out = None,
    reference: Reference = None,
) -> None:
    """Measure how many uploads per second rank 0 takes from 1, 2, 4, … client ranks, with decoding and tracing.

    The reference is a raw loop that receives the same bytes and does the same decode-accumulate.
    """
    run("ingest", parts.ingest(sizes), Output(json, out, reference), seconds=seconds, width=width, ranks=2)


@bench.command(
    epilog="Examples:\n\n  mpirun -n 4 qafel-mpi bench broadcast\n\n"
    "  mpirun -n 4 qafel-mpi bench broadcast --algorithm fanout --bytes 15000",
)
def broadcast(
    sizes: Sizes = PAYLOADS,
    algorithms: Annotated[
        list[str] | None,
        typer.Option("--algorithm", metavar="NAME", help="Measure only this algorithm. Can be repeated."),
    ] = None,
    seconds: Seconds = SECONDS,
    width: Width = WIDTH,
    json: Json = None,
    out: Out = None,
    reference: Reference = None,
) -> None:
    """Measure the time until the last client has applied q^t, for each broadcast algorithm, against MPI_Bcast."""
    run(
        "broadcast",
        parts.broadcast(sizes, algorithms),
        Output(json, out, reference),
        seconds=seconds,
        width=width,
        ranks=2,
    )


@bench.command(
    epilog="Examples:\n\n  mpirun -n 2 qafel-mpi bench backoff\n\n"
    "  mpirun -n 2 qafel-mpi bench backoff --seconds 5 --json backoff.json",
)
def backoff(
    seconds: Seconds = SECONDS,
    width: Width = WIDTH,
    json: Json = None,
    out: Out = None,
    reference: Reference = None,
) -> None:
    """Measure what waiting costs: latency, processor time and a neighbour's speed.

    The references are busy polling and a fixed sleep. Ranks 0 and 1 have a core each (apart) or share one (shared).
    """
    run("backoff", parts.backoff, Output(json, out, reference), seconds=seconds, width=width, ranks=2)


@bench.command(
    epilog="Examples:\n\n  mpirun -n 2 qafel-mpi bench overlap\n\n"
    "  mpirun -n 4 qafel-mpi bench overlap --uploads 1000 --json overlap.json",
)
def overlap(
    uploads: Annotated[
        int, typer.Option(min=20, help="Uploads of all wall runs together, at least 40 per client.")
    ] = UPLOADS,
    json: Json = None,
    out: Out = None,
    reference: Reference = None,
) -> None:
    """Measure what share of the communication wall runs hide behind the training of the CNN.

    exposed_us is how much longer a participation takes than in runs in which the same ranks train and encode, but
    send no messages and have no server. exposed_share is that time over the communication time. hidden_share comes
    from the traces alone: it is the share of the messages' time, from posting to being seen, that lies inside
    trainings. It also counts as hidden a message that waits unnoticed, and work on messages inside a training. Each
    has a 95% interval.
    """
    run(
        "overlap", parts.overlap(uploads), Output(json, out, reference), seconds=SECONDS, width=WIDTH, ranks=2
    )


@bench.command(
    epilog="Examples:\n\n  qafel-mpi bench tracing\n\n  mpirun -n 2 qafel-mpi bench tracing --uploads 2000",
)
def tracing(
    uploads: Annotated[int, typer.Option(min=20, help="Length of the wall run, under mpirun.")] = UPLOADS,
    seconds: Seconds = SECONDS,
    width: Width = WIDTH,
    json: Json = None,
    out: Out = None,
    reference: Reference = None,
) -> None:
    """Measure what the trace costs per message and, under mpirun, as a share of a wall run.

    Under mpirun also what the digests of uploads cost, as a share of what rank 0 does for an upload.
    """
    run("tracing", parts.tracing(uploads), Output(json, out, reference), seconds=seconds, width=width)


@bench.command(
    "all",
    epilog="Examples:\n\n  mpirun -n 4 qafel-mpi bench all --out bench.h5\n\n"
    "  mpirun -n 2 qafel-mpi bench all --seconds 0.2 --json quick.json --reference site.toml",
)
def all_(
    seconds: Seconds = SECONDS,
    width: Width = WIDTH,
    json: Json = None,
    out: Out = None,
    reference: Reference = None,
) -> None:
    """Run codec, p2p, ingest, broadcast, backoff, overlap and tracing one after the other, into one file."""
    every = {
        "codec": parts.codec,
        "p2p": parts.p2p(8, 4 << 20),
        "ingest": parts.ingest(PAYLOADS),
        "broadcast": parts.broadcast(PAYLOADS, None),
        "backoff": parts.backoff,
        "overlap": parts.overlap(UPLOADS),
        "tracing": parts.tracing(UPLOADS),
    }

    def measure(comm: MPI.Intracomm, limits: Limits) -> Iterator[Row]:
        for part in every.values():
            yield from part(comm, limits)

    run(
        "all", measure, Output(json, out, reference), seconds=seconds, width=width, ranks=2, parts=list(every)
    )


@bench.command(
    epilog="Examples:\n\n  mpirun -n 3 qafel-mpi bench sizes --json sizes.json\n\n"
    "  mpirun -n 3 qafel-mpi bench sizes --d 29282,11000000 --algorithm fedbuff",
)
def sizes(
    d: Parameters = "29282,1000000,11000000,60000000",
    algorithm: Annotated[str, typer.Option(metavar="NAME", help="qafel or fedbuff.")] = "qafel",
    uploads: Annotated[int, typer.Option(min=4, help="Length of each run.")] = 16,
    json: Json = None,
    out: Out = None,
    reference: Reference = None,
) -> None:
    """Measure memory of server and clients, bytes of a message and seconds of each part of a wall run, by model size.

    Each size is trained for real, on the digits. Bytes per parameter are counted beyond those of the smallest size.
    """
    from qafel_mpi.config_text import whole_numbers

    counts = sorted(whole_numbers("--d", d, 1, 2**31))
    measure = parts.sizes(counts, algorithm, uploads)
    run("sizes", measure, Output(json, out, reference), seconds=SECONDS, width=WIDTH, ranks=2)


@bench.command(
    epilog="Examples:\n\n  mpirun -n 2 qafel-mpi bench checkpoint --json checkpoint.json\n\n"
    "  mpirun -n 2 qafel-mpi bench checkpoint --d 1000000",
)
def checkpoint(
    d: Parameters = "29282,11700000",
    uploads: Annotated[int, typer.Option(min=4, help="Length of each run.")] = 40,
    json: Json = None,
    out: Out = None,
    reference: Reference = None,
) -> None:
    """Measure what a checkpoint costs a wall run, and which share of its time they take at the default interval.

    The share counts the time that the run stands still, and that of the thread that writes beside it.
    """
    from qafel_mpi.config_text import whole_numbers

    counts = sorted(whole_numbers("--d", d, 1, 2**31))
    run(
        "checkpoint",
        parts.checkpoint(counts, uploads),
        Output(json, out, reference),
        seconds=SECONDS,
        width=WIDTH,
        ranks=2,
    )


@bench.command(
    epilog="Example:\n\n  mpirun -n 8 qafel-mpi bench data --megabytes 500 --json data.json",
)
def data(
    megabytes: Annotated[int, typer.Option(min=1, help="Size of the data set that is made.")] = 100,
    json: Json = None,
    out: Out = None,
    reference: Reference = None,
) -> None:
    """Measure the memory of a host's ranks with a data set: with a copy for each rank, and with one copy for all.

    Memory is the proportional set size of all ranks together, in which shared pages count once.
    """
    run("data", parts.data(megabytes), Output(json, out, reference), seconds=SECONDS, width=WIDTH, ranks=2)


@bench.command(
    epilog="Examples:\n\n  mpirun -n 16 qafel-mpi bench startup --json startup.json\n\n"
    "  mpirun -n 2 qafel-mpi bench startup celeba",
)
def startup(
    name: Annotated[
        str, typer.Argument(metavar="EXPERIMENT", help="A name from `qafel-mpi list` or a TOML file.")
    ] = "digits",
    json: Json = None,
    out: Out = None,
    reference: Reference = None,
) -> None:
    """Measure the start of a wall run by rank and phase: seconds, processor time and files that Python opens.

    A sample is a rank. Seconds of a phase include what a rank waits for others in it.
    """
    marks.passed("interpreter and command line")
    marks.count_opened()
    with job.all_ranks_end():
        job.load()
        marks.passed("imports")
        job.world()
        marks.passed("MPI")
    run("startup", parts.startup(name), Output(json, out, reference), seconds=SECONDS, width=WIDTH, ranks=2)


class VirtualPart(StrEnum):
    MEMORY = "memory"
    OVERHEAD = "overhead"
    SPEED_UP = "speed-up"
    REPLAY = "replay"


@bench.command(
    epilog="Examples:\n\n  qafel-mpi bench virtual     overhead and memory, in one process\n\n"
    "  mpirun -n 3 qafel-mpi bench virtual     also the speed-up of two workers",
)
def virtual(
    uploads: Annotated[int, typer.Option(min=1, help="Uploads of one CNN run, which is one sample.")] = 60,
    steps: Annotated[
        int,
        typer.Option(min=1, help="Server steps of one run of the logistic regression, which is one sample."),
    ] = 500,
    clients: Annotated[
        list[int] | None,
        typer.Option(min=100, metavar="N", help="Number of clients for the memory rows. Can be repeated."),
    ] = None,
    only: Annotated[
        list[VirtualPart] | None,
        typer.Option(help="Measure only this part. Can be repeated. Default: all parts."),
    ] = None,
    seconds: Seconds = 30.0,
    width: Width = WIDTH,
    json: Json = None,
    out: Out = None,
    reference: Reference = None,
) -> None:
    """Measure the virtual clock: updates per second against bare training, speed-up by workers, memory per client.

    The part "replay" measures how fast replays of its traces are, against the runs themselves.
    """
    counts = sorted(clients or [100, 10_000, 1_000_000])
    measure = parts.virtual([part.value for part in only or list(VirtualPart)], uploads, steps, counts)
    run("virtual", measure, Output(json, out, reference), seconds=seconds, width=width)


bench.command(epilog=peers.EXAMPLES)(peers.peers)


# --- files ------------------------------------------------------------------------------------------

bench.command(epilog="Examples:\n\n  qafel-mpi bench check bench.h5\n\n  qafel-mpi bench check p2p.json")(
    files.check
)
bench.command(
    epilog="Examples:\n\n  qafel-mpi bench compare old.h5 new.h5\n\n"
    "  qafel-mpi bench compare before/ after/     folders of launches\n\n"
    "  qafel-mpi bench compare here.json there.json --unlike-hosts\n\n"
    "  qafel-mpi bench compare nightly/ --history history.html",
)(files.compare)

bench.command(
    epilog="Examples:\n\n  qafel-mpi bench references p2p.json codec.json > site.toml\n\n"
    "  qafel-mpi bench references p2p.json runs/a.h5 --system 'node*' --within 0.2 > site.toml\n\n"
    "  qafel-mpi bench references codec.json --column ratio",
)(site.references)
bench.command(
    epilog="Examples:\n\n  qafel-mpi bench reframe p2p.json --reference site.toml > variables.json\n\n"
    "  qafel-mpi bench reframe runs/a.h5"
)(site.reframe)
