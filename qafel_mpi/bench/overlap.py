"""How much of the communication a wall run hides behind training, from the trace of the run itself.

An upload is under way from its posting until rank 0 has matched it, a broadcast to a client from rank 0's posting
until the client has it. Hidden is the part of these spans that lies inside the client's trainings. A sample is the
time from one upload of a client to its next; its reference is the training of that time alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mpi4py import MPI

from qafel_mpi.bench.result import Row
from qafel_mpi.bench.timing import Samples
from qafel_mpi.config import Experiment, load
from qafel_mpi.trace.reader import open_trace
from qafel_mpi.wire import Kind

if TYPE_CHECKING:
    from qafel_mpi.trace.reader import Trace

REFERENCE = "the training of the same participation alone"
WARMUPS = 3  # participations of a client
SENDER, RECEIVER = 0, 1
DOWN = (Kind.BROADCAST, Kind.MODEL, Kind.DOWNLOAD)

Drive = Callable[[Experiment, MPI.Intracomm, Path], object]  # drivers.wall.run
Spans = np.ndarray  # (n, 2) float64, seconds on rank 0's clock


def experiment(uploads: int) -> Experiment:
    """The paper's CNN on made images of CelebA's shape: no data set is needed."""
    return load(
        "celeba",
        [
            "clock.kind=wall",
            "task.dataset=synthetic",
            "task.model=cnn",
            "task.partition.kind=iid",
            "task.shape=[3, 32, 32]",
            "task.classes=2",
            "task.examples=2000",
            "client.local_steps=1",
            "client.batch_size=21",
            "server.buffer_size=4",
            "evaluation.examples=32",
            "evaluation.every_steps=50",
            "stop.accuracy=1.0",
            f"stop.uploads={uploads}",
        ],
    )


def run(comm: MPI.Intracomm, drive: Drive, chosen: Experiment, read: Callable[[Trace], Row]) -> Row | None:
    """Collective: drive the experiment and read its trace on rank 0; None elsewhere.

    The folder must be seen by all ranks: it lies in the working folder.
    """
    name = np.zeros(512, dtype=np.uint8)
    folder = tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) if comm.rank == 0 else None
    if folder is not None:
        data = folder.name.encode()
        name[: len(data)] = np.frombuffer(data, np.uint8)
    comm.Bcast([name, MPI.BYTE], 0)
    out = Path(name.tobytes().rstrip(b"\0").decode()) / "run.h5"
    try:
        drive(chosen, comm, out)
        if comm.rank != 0:
            return None
        with open_trace(out) as trace:
            return read(trace)
    finally:
        if folder is not None:
            folder.cleanup()


def rows(comm: MPI.Intracomm, drive: Drive, uploads: int) -> Iterator[Row]:
    """Collective: one wall run of so many uploads, and its row (on rank 0 alone)."""
    row = run(comm, drive, experiment(uploads), measure)
    if row is not None:
        yield row


def measure(trace: Trace) -> Row:
    """The row of a finished wall run."""
    messages, updates = trace.table("messages"), trace.table("updates")
    trainings = training_spans(updates, messages)
    periods, trained, hidden_s, under_way_s = [], [], 0.0, 0.0
    for client, spans in trainings.items():
        begun = spans[:, 0]
        periods.append(np.diff(begun)[WARMUPS:])
        trained.append((spans[:, 1] - spans[:, 0])[:-1][WARMUPS:])
        moved = communication_spans(messages, client + 1)
        moved = moved[(moved[:, 0] >= begun[0]) & (moved[:, 1] <= spans[-1, 1])]
        hidden_s += overlap_seconds(moved, spans)
        under_way_s += float((moved[:, 1] - moved[:, 0]).sum())
    ours, reference = np.concatenate(periods), np.concatenate(trained)
    attributes, ranks = trace.attributes, trace.table("ranks")
    return Row(
        "overlap",
        {"model": "cnn", "ranks": int(attributes["ranks"]), "elements": int(attributes["parameters"])},
        Samples(ours, np.zeros(0)),
        Samples(reference, np.zeros(0)),
        REFERENCE,
        wrong=int(attributes["dropped_messages"]),
        reduction="all clients'",
        derived={
            "hidden_share": hidden_s / under_way_s if under_way_s else 1.0,
            "communication_s": under_way_s,
            "uploads": float(len(updates)),
            "rank_0_peak_mb": float(ranks["peak_memory_bytes"][ranks["rank"] == 0][0]) / 1e6,
        },
    )


def training_spans(updates: np.ndarray, messages: np.ndarray) -> dict[int, Spans]:
    """By client: when its trainings began and ended. An upload's row says when encoding began and how long it
    had trained."""
    sent = messages[(messages["end"] == SENDER) & (messages["kind"] == Kind.UPDATE)]
    seconds = {(c, n): s for c, n, s in updates[["client", "participation", "train_seconds"]].tolist()}
    found: dict[int, list[tuple[float, float]]] = {}
    for client, sequence, ended in sent[["client", "sequence", "t_encode_begin"]].tolist():
        if (client, sequence) in seconds:
            found.setdefault(client, []).append((ended - seconds[client, sequence], ended))
    return {client: np.array(sorted(spans)) for client, spans in found.items() if len(spans) > WARMUPS + 2}


def communication_spans(messages: np.ndarray, rank: int) -> Spans:
    """Uploads of a client's rank and broadcasts to it, each from its posting to its arrival."""
    up = messages[(messages["end"] == SENDER) & (messages["src"] == rank) & (messages["kind"] == Kind.UPDATE)]
    spans = up[["t_post", "t_complete"]].tolist()
    down = messages[np.isin(messages["kind"], DOWN) & (messages["dst"] == rank)]
    posted = dict(down[down["end"] == SENDER][["sequence", "t_post"]].tolist())
    arrived = down[down["end"] == RECEIVER][["sequence", "t_complete"]].tolist()
    spans += [(posted[s], t) for s, t in arrived if s in posted]
    return np.array(spans, dtype=float).reshape(-1, 2)


def overlap_seconds(moved: Spans, trainings: Sequence[Sequence[float]] | np.ndarray) -> float:
    """Σ over `moved` of the seconds that lie inside the trainings, which are ordered and disjoint.

    >>> overlap_seconds(np.array([[0.0, 3.0], [5.0, 6.0]]), np.array([[1.0, 2.0], [2.5, 5.5]]))
    2.0
    """
    spans = np.asarray(trainings, dtype=float)
    edges = spans.reshape(-1)
    lengths = np.diff(edges, prepend=edges[0])
    lengths[::2] = 0.0  # between trainings
    trained_until = np.cumsum(lengths)  # at each edge

    def trained(at: np.ndarray) -> np.ndarray:
        return np.interp(at, edges, trained_until)

    return float((trained(moved[:, 1]) - trained(moved[:, 0])).sum())
