"""What the digest of an upload costs rank 0, as a share of all that it does for an upload in a wall run.

The cost: payloads are added to a sum with their digests and without, in turns, in one process. The work: the seconds
of wall runs in which rank 0 had something to do, an upload. So there is all in it that a run has: completing
receives, copies by MPI, headers, adding up, rows of the trace, the server's steps, broadcasts. Left out are
evaluations, and the time in which nothing comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch
from mpi4py import MPI

from qafel_mpi.bench.ingest import codec_for
from qafel_mpi.bench.measuring.ranks import first
from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Case, Limits, Samples, interleave
from qafel_mpi.bench.overlap import Drive, run
from qafel_mpi.codecs import Codec
from qafel_mpi.config import Experiment, load
from qafel_mpi.kernels.aligned import aligned_bytes
from qafel_mpi.kernels.memory import zeros

if TYPE_CHECKING:
    from qafel_mpi.trace.reader import Trace

REFERENCE = "the same without digests"
UPLOADS = {
    15_000: 1000,
    5_900_000: 60,
}  # bytes, the paper's CNN and a ResNet-18 at 4 bits: uploads of a wall run
ROUNDS = 3  # wall runs of each size
LEAST_SECONDS = 1e-3  # of a sample
DigestsOf = Callable[[Sequence[np.ndarray]], list[int]]
Digester = Callable[[bool, Codec], DigestsOf]  # drivers.digests.digester


def rows(
    comm: MPI.Intracomm,
    limits: Limits,
    digester: Digester,
    drive: Drive,
    uploads: dict[int, int] = UPLOADS,
) -> Iterator[Row]:
    """Collective, on two ranks or more; rows on rank 0 alone."""
    for size, count in uploads.items():
        work_s = [run(comm, drive, experiment(size, count), busy_s) for _ in range(ROUNDS)]
        yield from first(comm, 1, partial(_rows, size, limits, digester, work_s))


def _rows(
    size: int, limits: Limits, digester: Digester, work_s: list[float | None], comm: MPI.Intracomm
) -> list[Row]:
    payload_bytes, samples = cost(size, limits, digester)
    return [row(payload_bytes, samples, [seconds for seconds in work_s if seconds is not None])]


def row(payload_bytes: int, samples: dict[str, Samples], work_s: Sequence[float]) -> Row:
    """work_s: rank 0's for an upload, of each wall run. The least counts: what disturbs a run makes it longer."""
    ours, reference = samples["digest"], samples["none"]
    extra = ours.values - reference.values
    return Row(
        "tracing",
        {"operation": "digest", "bytes": payload_bytes},
        ours,
        reference,
        REFERENCE,
        bytes_moved=float(payload_bytes),
        derived={
            "share": float(np.median(extra)) / min(work_s),
            "work_us": 1e6 * min(work_s),
            "most_work_us": 1e6 * max(work_s),
        },
    )


def experiment(size: int, uploads: int) -> Experiment:
    """A perceptron with uploads of about so many bytes, that trains on one example: rank 0 has much to do."""
    hidden = codec_for(size).layout.elements // 75  # of 64 inputs and 10 classes
    return load(
        "digits",
        [
            "clock.kind=wall",
            "task.dataset=synthetic",
            "task.shape=[64]",
            "task.classes=10",
            "task.examples=64",
            "task.clients=ranks",
            f"task.hidden={hidden}",
            "client.batch_size=1",
            "client.local_steps=1",
            "client.learning_rate=0.001",
            "evaluation.examples=2",
            "evaluation.every_steps=1000000",
            "stop.accuracy=1.0",
            f"stop.uploads={uploads}",
        ],
    )


def busy_s(trace: Trace) -> float:
    """Rank 0's seconds of work for an upload."""
    return float(trace.attributes["busy_seconds"]) / float(trace.attributes["uploads"])


def cost(size: int, limits: Limits, digester: Digester) -> tuple[int, dict[str, Samples]]:
    """Bytes of a payload; samples of the seconds to add one to a sum, with its digest and without."""
    torch.set_num_threads(1)
    x = torch.randn(codec_for(size).layout.elements, generator=torch.Generator().manual_seed(0))
    total = zeros(x.numel())  # in huge pages, as the server's
    codecs = {"digest": codec_for(size), "none": codec_for(size)}
    payload = aligned_bytes(codecs["none"].payload_bytes())
    codecs["none"].encode(x, payload, 0)
    count = max(1, int(LEAST_SECONDS / (3e-10 * size + 1e-6)))

    def case(codec: Codec, digests_of: DigestsOf) -> Case:
        def sample() -> float:
            begun = perf_counter()
            for _ in range(count):
                codec.accumulate(payload, total, 0.5, 0)
                digests_of([payload])
            return (perf_counter() - begun) / count

        return sample

    cases = {name: case(codec, digester(name == "digest", codec)) for name, codec in codecs.items()}
    return payload.size, interleave(cases, limits, loops=count)
