"""How much of the communication a wall run hides behind training.

Two answers, each with a 95% bootstrap interval over the participations of all clients:

exposed: what the messages cost a client. Wall runs alternate with runs in which the same ranks train and encode the
same, with no message and no server; exposed is by how much longer a participation takes with them (checksums,
posting, applying q^t, waiting, and the server's share of the cores), exposed_share that over its communication time.

hidden_share: from the traces alone. An upload is under way from its posting until rank 0 has matched it, a broadcast
from its posting until the client has it; hidden is the part of these spans inside the client's trainings. A span
ends when the other end looks, so a message that waits unnoticed counts as hidden, as does what is done for
messages inside a training: this is what a profiler's timeline shows, and near 100% wherever training dominates.

A sample is the time from one training of a client to its next; its reference is that of the run without messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from mpi4py import MPI

from qafel_mpi.bench.measuring.exposure import WARMUPS, Participations, exposure, samples
from qafel_mpi.bench.measuring.ranks import shared_folder
from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.config import ConfigError, Experiment, load
from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace_schema import taken
from qafel_mpi.wire import Kind

if TYPE_CHECKING:
    from qafel_mpi.trace.reader import Trace

REFERENCE = "the same training and encoding without messages"
ROUNDS = 4  # of a wall run and one without messages
LEAST = 10  # uploads of a client in a run, on average
SENDER, RECEIVER = 0, 1
DOWN = (Kind.BROADCAST, Kind.MODEL, Kind.DOWNLOAD)

Drive = Callable[[Experiment, MPI.Intracomm, Path], object]  # drivers.wall.run
# drivers.wall.alone.trainings: (experiment, comm) -> collective: so many trainings of each rank -> their periods,
# (client ranks, count) seconds, on rank 0; (0, count) elsewhere.
Alone = Callable[[Experiment, MPI.Intracomm], Callable[[int], np.ndarray]]
T = TypeVar("T")
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
            "task.clients=ranks",
            "client.local_steps=1",
            "client.batch_size=21",
            "server.buffer_size=4",
            "evaluation.examples=32",
            "evaluation.every_steps=50",
            "stop.accuracy=1.0",
            f"stop.uploads={uploads}",
        ],
    )


def run(comm: MPI.Intracomm, drive: Drive, chosen: Experiment, read: Callable[[Trace], T]) -> T | None:
    """Collective: drive the experiment and read its trace on rank 0; None elsewhere."""
    with shared_folder(comm) as folder:
        out = folder / "run.h5"
        drive(chosen, comm, out)
        if comm.rank != 0:
            return None
        with open_trace(out) as trace:
            return read(trace)


def uploads_needed(client_ranks: int) -> int:
    """The fewest uploads, over all rounds: below, client ranks would have nothing but warm-ups."""
    return ROUNDS * LEAST * client_ranks


def rows(comm: MPI.Intracomm, drive: Drive, alone: Alone, uploads: int) -> Iterator[Row]:
    """Collective: wall runs of so many uploads together, in turns with runs without messages; a row on rank 0."""
    client_ranks = comm.size - 1
    a_run = -(-max(uploads, uploads_needed(client_ranks)) // ROUNDS)
    chosen = experiment(a_run)
    train = alone(chosen, comm)
    each = -(-a_run // client_ranks)
    measured: list[Participations] = []
    runs: list[WallRun] = []
    for number in range(ROUNDS):
        begun_s = perf_counter()
        before = train(each) if number % 2 else None  # ABBA: what drifts weighs on both alike
        found = run(comm, drive, chosen, _read)
        periods = train(each) if before is None else before
        if found is not None:
            measured += [
                participations(spans + begun_s, moved + begun_s, periods[rank - 1])
                for rank, (spans, moved) in found.ranks.items()
            ]
            runs.append(found)
    if comm.rank == 0:
        parameters = {"model": "cnn", "ranks": comm.size, "elements": runs[0].elements}
        totals = {
            "uploads": float(sum(found.uploads for found in runs)),
            "rank_0_peak_mb": max(found.rank_0_peak_mb for found in runs),
        }
        yield row(parameters, measured, sum(found.dropped for found in runs), totals)


class WallRun(NamedTuple):
    """What is read of a finished wall run."""

    ranks: dict[int, tuple[Spans, Spans]]  # trainings and messages, of those with more than warm-ups
    elements: int
    uploads: int
    dropped: int
    rank_0_peak_mb: float


def _read(trace: Trace) -> WallRun:
    messages, updates, ranks = trace.table("messages"), taken(trace.table("updates")), trace.table("ranks")
    return WallRun(
        {
            rank: (spans, communication_spans(messages, rank))
            for rank, spans in training_spans(updates, messages).items()
        },
        int(trace.attributes["parameters"]),
        len(updates),
        int(trace.attributes["dropped_messages"]),
        float(ranks["peak_memory_bytes"][ranks["rank"] == 0][0]) / 1e6,
    )


def participations(trainings: Spans, moved: Spans, alone: np.ndarray) -> Participations:
    """Of one rank: as many as both runs have. A message belongs to the participation in which it was posted."""
    begun = trainings[:, 0]
    count = min(len(begun) - 1, len(alone))
    of = np.searchsorted(begun, moved[:, 0], side="right") - 1
    own = (of >= 0) & (of < count)
    moved, of = moved[own], of[own]
    lengths, hidden = moved[:, 1] - moved[:, 0], overlap_seconds(moved, trainings)
    return Participations(
        begun[:count],
        np.diff(begun)[:count],
        np.bincount(of, weights=lengths, minlength=count),
        np.bincount(of, weights=hidden, minlength=count),
        alone[:count],
    )


def row(
    parameters: Mapping[str, Any],
    measured: Sequence[Participations],
    dropped: int,
    derived: Mapping[str, float],
) -> Row:
    """Raises ConfigError where nothing is left without the warm-ups."""
    if not any(len(own) > WARMUPS for own in measured):
        raise ConfigError([f"bench overlap: no client has more than {WARMUPS} trainings: raise --uploads"])
    found = exposure(measured)
    ours, alone = samples(measured)
    return Row(
        "overlap",
        parameters,
        ours,
        alone,
        REFERENCE,
        wrong=dropped,
        reduction="all clients'",
        derived={
            "exposed_us": 1e6 * found.exposed_s,
            "exposed_ci95_us": [1e6 * bound for bound in found.exposed_interval],
            "exposed_share": found.exposed_share,
            "exposed_share_ci95": list(found.exposed_share_interval),
            "hidden_share": found.hidden_share,
            "hidden_share_ci95": list(found.hidden_share_interval),
            "communication_us": 1e6 * found.communication_s,
            **derived,
        },
    )


def training_spans(updates: np.ndarray, messages: np.ndarray) -> dict[int, Spans]:
    """By rank: when its trainings began and ended. An upload's row says when encoding began and how long its client
    had trained."""
    sent = messages[(messages["end"] == SENDER) & (messages["kind"] == Kind.UPDATE)]
    seconds = {(c, n): s for c, n, s in updates[["client", "participation", "train_seconds"]].tolist()}
    found: dict[int, list[tuple[float, float]]] = {}
    for rank, client, sequence, ended in sent[["src", "client", "sequence", "t_encode_begin"]].tolist():
        if (client, sequence) in seconds:
            found.setdefault(rank, []).append((ended - seconds[client, sequence], ended))
    return {rank: np.array(sorted(spans)) for rank, spans in found.items() if len(spans) > WARMUPS + 1}


def communication_spans(messages: np.ndarray, rank: int) -> Spans:
    """Uploads of a client rank and broadcasts to it, each from its posting to its arrival."""
    up = messages[(messages["end"] == SENDER) & (messages["src"] == rank) & (messages["kind"] == Kind.UPDATE)]
    spans = up[["t_post", "t_complete"]].tolist()
    down = messages[np.isin(messages["kind"], DOWN) & (messages["dst"] == rank)]
    # q^t and a catch-up to version t have one number between them.
    sent = down[down["end"] == SENDER][["kind", "sequence", "t_post"]].tolist()
    posted = {(kind, sequence): t for kind, sequence, t in sent}
    arrived = down[down["end"] == RECEIVER][["kind", "sequence", "t_complete"]].tolist()
    spans += [(posted[k, s], t) for k, s, t in arrived if (k, s) in posted]
    return np.array(spans, dtype=float).reshape(-1, 2)


def overlap_seconds(moved: Spans, trainings: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """Of each of `moved` the seconds that lie inside the trainings, which are ordered and disjoint.

    >>> overlap_seconds(np.array([[0.0, 3.0], [5.0, 6.0]]), np.array([[1.0, 2.0], [2.5, 5.5]])).tolist()
    [1.5, 0.5]
    """
    spans = np.asarray(trainings, dtype=float)
    edges = spans.reshape(-1)
    lengths = np.diff(edges, prepend=edges[0])
    lengths[::2] = 0.0  # between trainings
    trained_until = np.cumsum(lengths)  # at each edge

    def trained(at: np.ndarray) -> np.ndarray:
        return np.interp(at, edges, trained_until)

    return trained(moved[:, 1]) - trained(moved[:, 0])
