"""What a model of d parameters costs: memory of server and clients, bytes of a message, seconds of each part.

Each row is a wall run on the digits with an MLP whose hidden layer is as wide as d asks for, with one local step on
a batch of 4, so that the vectors are nearly all of the memory. A sample is one training of a client.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from mpi4py import MPI

from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Samples
from qafel_mpi.bench.overlap import Drive, run
from qafel_mpi.config import Experiment, load
from qafel_mpi.trace_schema import taken
from qafel_mpi.wire import Kind

if TYPE_CHECKING:
    from qafel_mpi.trace.reader import Trace

INPUTS, CLASSES = 64, 10  # of the digits
ALGORITHMS = ("qafel", "fedbuff")
SENDER, RECEIVER = 0, 1


class Size(NamedTuple):
    """What is read of one run. Bytes; medians in seconds."""

    d: int
    rank_0_bytes: float
    client_bytes: float
    upload_bytes: int
    broadcast_bytes: int
    encode_s: float
    decode_s: float
    step_s: float
    apply_s: float
    trainings_s: np.ndarray  # in the order of use
    dropped: int


def experiment(d: int, algorithm: str, uploads: int) -> Experiment:
    """About d parameters: (INPUTS + 1) · h + (h + 1) · CLASSES of a hidden layer of h."""
    hidden = max(1, round((d - CLASSES) / (INPUTS + 1 + CLASSES)))
    return load(
        "digits",
        [
            "clock.kind=wall",
            f"algorithm={algorithm}",
            f"task.hidden={hidden}",
            "client.local_steps=1",
            "client.batch_size=4",
            "server.buffer_size=2",
            "evaluation.examples=4",
            "evaluation.every_steps=1000000",
            "stop.accuracy=1.0",
            f"stop.uploads={uploads}",
        ],
    )


def rows(
    comm: MPI.Intracomm, drive: Drive, sizes: Sequence[int], algorithm: str, uploads: int
) -> Iterator[Row]:
    """Collective; rows on rank 0 alone. sizes: parameters, about; ascending, for a peak of memory never falls."""
    smallest: Size | None = None
    for d in sizes:
        found = run(comm, drive, experiment(d, algorithm, uploads), read)
        if found is not None:
            smallest = smallest or found
            yield row(found, smallest, algorithm, comm.size)


def read(trace: Trace) -> Size:
    """The costs that a finished run's trace has."""
    ranks, messages, updates = trace.table("ranks"), trace.table("messages"), taken(trace.table("updates"))
    up, down = messages["kind"] == Kind.UPDATE, messages["kind"] == Kind.BROADCAST
    sent, received = messages["end"] == SENDER, messages["end"] == RECEIVER
    peaks = ranks["peak_memory_bytes"]
    about = trace.attributes
    return Size(
        d=int(about["parameters"]),
        rank_0_bytes=float(peaks[ranks["rank"] == 0][0]),
        client_bytes=float(peaks[ranks["rank"] > 0].max()),
        upload_bytes=int(about["payload_bytes_per_upload"]),
        broadcast_bytes=int(about["payload_bytes_per_broadcast"]),
        encode_s=_span(messages[up & sent], "encode"),
        decode_s=_span(messages[up & received], "decode"),
        step_s=_span(messages[down & sent], "encode"),
        apply_s=_span(messages[down & received], "decode"),
        trainings_s=updates["train_seconds"],
        dropped=int(about["dropped_messages"]),
    )


def _span(messages: np.ndarray, name: str) -> float:
    return _median(messages[f"t_{name}_end"] - messages[f"t_{name}_begin"])


def _median(values: np.ndarray) -> float:
    return float(np.nanmedian(values)) if len(values) else 0.0


def row(found: Size, smallest: Size, algorithm: str, ranks: int) -> Row:
    """A parameter's bytes are what this size has more than the smallest one, over its more parameters."""
    derived = {
        "rank_0_mb": found.rank_0_bytes / 1e6,
        "client_mb": found.client_bytes / 1e6,
        "upload_bytes": float(found.upload_bytes),
        "broadcast_bytes": float(found.broadcast_bytes),
        "encode_us": 1e6 * found.encode_s,
        "decode_us": 1e6 * found.decode_s,
        "step_us": 1e6 * found.step_s,
        "apply_us": 1e6 * found.apply_s,
    }
    if (more := found.d - smallest.d) > 0:
        derived["rank_0_bytes_a_parameter"] = (found.rank_0_bytes - smallest.rank_0_bytes) / more
        derived["client_bytes_a_parameter"] = (found.client_bytes - smallest.client_bytes) / more
    return Row(
        "sizes",
        {"algorithm": algorithm, "d": found.d, "ranks": ranks},
        Samples(found.trainings_s[ranks - 1 :], found.trainings_s[: ranks - 1]),
        wrong=found.dropped,
        reduction="a client's training",
        derived=derived,
    )
