"""The command `qafel-mpi bench codec`: codecs on the CPU and on a GPU.

numpy, torch and mpi4py are imported inside the command.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from qafel_mpi.commands.bench.measure import Output, run, say
from qafel_mpi.commands.bench.options import Elements, Json, Out, Reference, Seconds, Width
from qafel_mpi.commands.bench.parts import that_fit
from qafel_mpi.config_text import ConfigError

if TYPE_CHECKING:
    from mpi4py import MPI

    from qafel_mpi.bench.codec import Point
    from qafel_mpi.bench.measuring.result import Row
    from qafel_mpi.bench.measuring.timing import Limits

EXAMPLES = (
    "Examples:\n\n  qafel-mpi bench codec --json codec.json\n\n"
    "  qafel-mpi bench codec --codec qsgd --bits 4 --d 1000000 --threads 1,2\n\n"
    "  qafel-mpi bench codec --against numpy,torch,bitsandbytes,torchao\n\n"
    "  qafel-mpi bench codec --codec qsgd --bits 4 --d 29282 --busy-neighbour\n\n"
    "  qafel-mpi bench codec --device cuda --codec qsgd --bits 4"
)


def codec(
    codecs: Annotated[
        str,
        typer.Option(
            "--codec",
            metavar="LIST",
            help="Any of identity, qsgd, affine, topk, randk, sign, eden, fp4, fixed, lattice.",
        ),
    ] = "qsgd,affine,sign,topk,randk,eden",
    bits: Annotated[
        str, typer.Option(metavar="LIST", help="Widths of qsgd, affine, eden, fixed and lattice.")
    ] = "2,3,4,8",
    d: Elements = "29282,1000000,11000000,110000000",
    threads: Annotated[str, typer.Option(metavar="LIST", help="Numbers of threads for the codec.")] = "1",
    against: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="Libraries to compare with: any of numpy, torch, bitsandbytes, torchao."
        ),
    ] = "",
    busy_neighbour: Annotated[
        bool, typer.Option("--busy-neighbour", help="Share one core with a busy process.")
    ] = False,
    device: Annotated[
        str, typer.Option(metavar="LIST", help="Devices: cpu, cuda. cuda is skipped without a GPU.")
    ] = ("cpu,cuda"),
    seconds: Seconds = 1.0,
    width: Width = 0.02,
    json: Json = None,
    out: Out = None,
    reference: Reference = None,
) -> None:
    """Time encoding and decoding against memory passes with the same reads and writes, and against other libraries.

    Time/pass: our time over that of the memory pass; 2.0 means that it takes twice as long. Ratio, against a library:
    its time over ours. In the files, ratio is the reference's time over ours in both cases.
    """
    from qafel_mpi.bench.measuring.peers import NAMES
    from qafel_mpi.codecs.config import CODEC_NAMES
    from qafel_mpi.config_text import choices, whole_numbers

    names = choices("--codec", codecs, CODEC_NAMES)
    peers = choices("--against", against, NAMES)
    widths = whole_numbers("--bits", bits, 1, 16)
    sizes = whole_numbers("--d", d, 1, 2**31)
    counts = whole_numbers("--threads", threads, 1, 1024)
    devices = choices("--device", device, ("cpu", "cuda"))
    if devices == ["cuda"] and not _has_gpu():
        raise ConfigError(["--device cuda: no GPU was found here; use --device cpu"])

    def measure(comm: MPI.Intracomm, limits: Limits) -> Iterator[Row]:
        from qafel_mpi.bench import codec as ours
        from qafel_mpi.bench.measuring.neighbour import neighbour

        if comm.rank != 0:
            return
        points = ours.sweep(names, widths, that_fit(sizes, ours.BYTES_PER_ELEMENT), counts)
        if "cpu" in devices:
            with neighbour() if busy_neighbour else nullcontext():
                yield from ours.rows(points, limits, peers, say)
        if "cuda" in devices:
            yield from _gpu_rows(points, limits)

    run("codec", measure, Output(json, out, reference), seconds=seconds, width=width)


def _gpu_rows(points: Sequence[Point], limits: Limits) -> Iterator[Row]:
    if not _has_gpu():
        say("no GPU was found here: the rows for cuda are skipped")
        return
    import torch

    from qafel_mpi.bench import codec_gpu

    one_thread = [point for point in points if point.threads == points[0].threads]  # threads are the CPU's
    device = torch.device("cuda", torch.cuda.current_device())
    yield from codec_gpu.rows(one_thread, limits, device, missing=say)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
