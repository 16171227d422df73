"""What the trace costs: a row of /messages, and all rows of a wall run as a share of its time.

A row's cost has the making of its values, the append, and the flushes to the shard that it causes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from qafel_mpi import wire
from qafel_mpi.bench.ingest import RowOf
from qafel_mpi.bench.measuring.exposure import WARMUPS
from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Limits, Samples, measure, timed
from qafel_mpi.bench.overlap import Drive, run
from qafel_mpi.config import Experiment, load
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.transport.frames import new_frame
from qafel_mpi.transport.inbox import Received

if TYPE_CHECKING:
    from qafel_mpi.trace.reader import Trace

ROWS = 4096  # in one sample: as many as the recorder holds, so that each has one flush


def rows(
    comm: MPI.Intracomm, limits: Limits, row_of: RowOf, drive: Drive | None, uploads: int
) -> Iterator[Row]:
    """Collective; rows on rank 0 alone. drive: for the share of a wall run, where comm has two ranks or more."""
    cost = message_cost(limits, row_of) if comm.rank == 0 else None
    if cost is not None:
        yield cost
    if drive is not None and comm.size > 1:
        row_s = cost.ours.median if cost is not None else 0.0
        share = run(comm, drive, experiment(uploads), lambda trace: share_of_run(trace, row_s))
        if share is not None:
            yield share


def message_cost(limits: Limits, row_of: RowOf) -> Row:
    message = wire.Message(
        wire.Kind.UPDATE, 1, 4, version=7, sequence=11, payload_bytes=15_000, elements=29_282
    )
    frame = new_frame(message.payload_bytes)
    received = Received(0, frame.buffer.data, frame.payload, 1, 0.0, 0.0)
    with tempfile.TemporaryDirectory(prefix="qafel-bench-") as folder:
        recorder = Recorder(Path(folder), 0, capacity=ROWS, flush_seconds=3600)
        samples = measure(timed(_one_row(recorder, row_of, received, message), ROWS), limits, loops=ROWS)
        recorder.close()
        bare = measure(timed(lambda: row_of(received, message, 0, 0.0, 0.0), ROWS), limits, loops=ROWS)
    return Row(
        "tracing",
        {"operation": "message"},
        samples,
        derived={"values_us": 1e6 * bare.median},
    )


def _one_row(
    recorder: Recorder, row_of: RowOf, received: Received, message: wire.Message
) -> Callable[[], Any]:
    append = recorder.messages.append

    def record() -> None:
        now = perf_counter()
        append(row_of(received, message, 0, now, now))

    return record


def experiment(uploads: int) -> Experiment:
    """Digits: a model of 4,810 parameters that trains in milliseconds, so that messages are frequent."""
    return load(
        "digits", ["clock.kind=wall", "task.clients=ranks", "stop.accuracy=1.0", f"stop.uploads={uploads}"]
    )


def share_of_run(trace: Trace, row_s: float) -> Row:
    """The busiest rank's rows times a row's cost, over the run's seconds."""
    messages = trace.table("messages", ["end", "src", "dst"])
    recorder = np.where(messages["end"] == 0, messages["src"], messages["dst"])
    written = np.bincount(recorder, minlength=int(trace.attributes["ranks"])).astype(float)
    written[0] += trace.rows("updates") + trace.rows("steps")
    seconds = float(trace.attributes["seconds"])
    uploads = np.diff(np.sort(trace.table("updates", ["finish_s"])["finish_s"]))
    warmups = min(WARMUPS * (int(trace.attributes["ranks"]) - 1), len(uploads) // 2)
    return Row(
        "tracing",
        {"operation": "wall run", "ranks": int(trace.attributes["ranks"])},
        Samples(uploads[warmups:], uploads[:warmups]),
        derived={
            "share": row_s * float(written.max()) / seconds,
            "rows_per_s": float(written.max()) / seconds,
        },
        reduction="rank 0's, of one upload to the next",
    )
