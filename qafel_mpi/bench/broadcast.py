"""Broadcast of q^t: time from rank 0's decision to send until the last client has applied it.

Each round begins at a barrier. Clients' times are put on rank 0's clock (transport.clocks); the bound of its error
is in the row. The reference is a blocking MPI_Bcast of the same payload and the same decode-accumulate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter

import numpy as np
import torch
from mpi4py import MPI

from qafel_mpi import codecs, wire
from qafel_mpi.bench.ingest import codec_for
from qafel_mpi.bench.ranks import REDUCTION_MAX, agree, crowded, total, wrong_bytes
from qafel_mpi.bench.result import Row
from qafel_mpi.bench.timing import Case, Limits, interleave
from qafel_mpi.transport.backoff import Backoff
from qafel_mpi.transport.clocks import synchronise
from qafel_mpi.transport.fanout import FanOut
from qafel_mpi.transport.frames import FramePool, Inbox, Sends

REFERENCE = "MPI_Bcast and the same decode-accumulate"
TAG = 23
SLOTS = 4
CLOCK_ROUNDS = 50
SEED = 11


def rows(
    comm: MPI.Intracomm, limits: Limits, payloads: Sequence[int], algorithms: Sequence[str]
) -> Iterator[Row]:
    """Collective. payloads: bytes, about; 4 bits an element. algorithms: of ALGORITHMS."""
    for size in payloads:
        for algorithm in algorithms:
            yield _row(comm, limits, size, algorithm)


def _row(comm: MPI.Intracomm, limits: Limits, size: int, algorithm: str) -> Row:
    codec = codec_for(size)
    content = _content(codec)
    offsets, bound_s = _offsets(comm)
    ways: dict[str, Way] = {
        "ours": ALGORITHMS[algorithm](comm, content),
        "reference": Collective(comm, content),
    }
    wrong = 0
    for way in ways.values():
        for _ in range(3):
            wrong += wrong_bytes(way.once(), content)
    apply = _applier(codec)
    cases = {name: _case(comm, way, apply, offsets) for name, way in ways.items()}
    samples = interleave(cases, limits, agree=agree(comm))
    for way in ways.values():
        way.close()
    return Row(
        "broadcast",
        {"algorithm": algorithm, "ranks": comm.size, "bytes": content.size},
        samples["ours"],
        samples["reference"],
        REFERENCE,
        bytes_moved=float(content.size) * (comm.size - 1),
        wrong=total(comm, wrong),
        reduction=REDUCTION_MAX,
        derived={"clock_error_us": 1e6 * bound_s},
    )


def _content(codec: codecs.Codec) -> np.ndarray:
    x = torch.randn(codec.layout.elements, generator=torch.Generator().manual_seed(SEED))
    out = np.zeros(codec.payload_bytes(), dtype=np.uint8)
    codec.encode(x, out, SEED)
    return out


def _applier(codec: codecs.Codec) -> Callable[[np.ndarray], None]:
    x_hat = torch.zeros(codec.layout.elements)
    return lambda payload: codec.accumulate(payload, x_hat, 1.0, SEED)


def _offsets(comm: MPI.Intracomm) -> tuple[np.ndarray, float]:
    """(size,) seconds to add to each rank's clock, on rank 0; the largest bound of their error."""
    offsets, bound = np.zeros(comm.size), 0.0
    for reading in synchronise(comm, rounds=CLOCK_ROUNDS):
        offsets[reading.rank] = reading.offset_s
        bound = max(bound, reading.error_bound_s)
    return offsets, bound


class FannedOut:
    """transport.fanout, as the wall driver uses it."""

    def __init__(self, comm: MPI.Intracomm, content: np.ndarray):
        self.comm, self.content = comm, content
        self.described = {wire.Kind.BROADCAST: wire.Expected(payload_bytes=content.size)}
        self.version = 0
        self.backoff = Backoff(crowded=crowded(comm))
        if comm.rank == 0:
            pool = FramePool(content.size)
            self.fanout = FanOut(
                Sends(comm, TAG),
                pool,
                range(1, comm.size),
                queue_limit=SLOTS,
                log_length=SLOTS,
                catch_up=None,
            )
            frames = [self.fanout.frame() for _ in range(2 * SLOTS)]
            for frame in frames:
                frame.payload[:] = content
                pool.release(frame)
        else:
            self.inbox = Inbox(comm, TAG, payload_bytes=content.size, slots=SLOTS, source=0)

    def send(self) -> None:
        frame = self.fanout.frame()
        frame.seal(
            wire.Kind.BROADCAST,
            expected=self.described[wire.Kind.BROADCAST],
            payload_bytes=self.content.size,
            version=self.version,
        )
        self.version += 1
        self.fanout.publish(frame)
        self._until(lambda: bool(self.fanout.poll()) or self.fanout.idle, lambda: self.fanout.idle)

    def receive(self, take: Callable[[np.ndarray], None]) -> None:
        arrived = self.inbox.poll()
        while not arrived:
            self.backoff.pause()
            arrived = self.inbox.poll()
        self.backoff.reset()
        (received,) = arrived
        wire.check(received.buffer, received.wire_bytes, self.described, rank=0)
        take(received.buffer[wire.HEADER_BYTES : received.wire_bytes])
        self.inbox.release(received.slot)

    def _until(self, progress: Callable[[], bool], done: Callable[[], bool]) -> None:
        while not done():
            if progress():
                self.backoff.reset()
            else:
                self.backoff.pause()

    def once(self) -> np.ndarray:
        """Collective: one broadcast, untimed; what this rank has of it."""
        return _once(self, self.comm, self.content)

    def close(self) -> None:
        if self.comm.rank != 0:
            self.inbox.close()


class Collective:
    """The reference: MPI_Bcast."""

    def __init__(self, comm: MPI.Intracomm, content: np.ndarray):
        self.comm, self.content = comm, content
        self.buffer = content.copy() if comm.rank == 0 else np.zeros_like(content)

    def send(self) -> None:
        self.comm.Bcast([self.buffer, MPI.BYTE], 0)

    def receive(self, take: Callable[[np.ndarray], None]) -> None:
        self.comm.Bcast([self.buffer, MPI.BYTE], 0)
        take(self.buffer)

    def once(self) -> np.ndarray:
        return _once(self, self.comm, self.content)

    def close(self) -> None:
        """Nothing is kept posted."""


Way = FannedOut | Collective
ALGORITHMS: dict[str, type[FannedOut]] = {"fanout": FannedOut}


def _once(way: Way, comm: MPI.Intracomm, content: np.ndarray) -> np.ndarray:
    kept: list[np.ndarray] = []
    if comm.rank == 0:
        way.send()
        return content
    way.receive(lambda payload: kept.append(payload.copy()))
    return kept[0]


def _case(comm: MPI.Intracomm, way: Way, apply: Callable[[np.ndarray], None], offsets: np.ndarray) -> Case:
    mine, everyone = np.zeros(1), np.zeros(comm.size)

    def case() -> float:
        comm.Barrier()
        begun = perf_counter()
        if comm.rank == 0:
            way.send()
        else:
            way.receive(apply)
            mine[0] = perf_counter()
        comm.Gather([mine, MPI.DOUBLE], [everyone, MPI.DOUBLE] if comm.rank == 0 else None, 0)
        return float((everyone + offsets)[1:].max() - begun) if comm.rank == 0 else 0.0

    return case
