"""Broadcast of q^t, by each algorithm: time from rank 0's decision to send until the last client has applied it.

Each round begins at a barrier. Clients' times are put on rank 0's clock (bench/hostclocks.py); the bound of its error
is in the row, and check holds it against the median. The reference is a blocking MPI_Bcast of the same payload and
the same decode-accumulate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter

import numpy as np
import torch
from mpi4py import MPI

from qafel_mpi import codecs, wire
from qafel_mpi.bench.ingest import codec_for
from qafel_mpi.bench.measuring.hostclocks import HostClocks, Last
from qafel_mpi.bench.measuring.ranks import REDUCTION_MAX, agree, cores_here, crowded, total, wrong_bytes
from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Case, Limits, interleave
from qafel_mpi.kernels.memory import zeros
from qafel_mpi.transport import broadcast as broadcasts
from qafel_mpi.transport.backoff import Backoff
from qafel_mpi.transport.config import TransportConfig
from qafel_mpi.transport.ibcast import Ibcast

REFERENCE = "MPI_Bcast and the same decode-accumulate"
TAG = 23
SLOTS = 4
ALGORITHMS = broadcasts.ALGORITHMS
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
    clocks = HostClocks(comm)
    stream = Stream(comm, content, algorithm)
    ways: dict[str, Way] = {"ours": stream, "reference": Collective(comm, content)}
    wrong = 0
    for way in ways.values():
        for _ in range(3):
            wrong += wrong_bytes(way.once(), content)
    apply = _applier(codec)
    seen: dict[str, list[Last]] = {name: [] for name in ways}
    cases = {name: _case(comm, way, apply, clocks, seen[name]) for name, way in ways.items()}
    raw = interleave(cases, limits, agree=agree(comm))
    clocks.read_again()
    samples = {name: clocks.corrected(taken, seen[name]) for name, taken in raw.items()}
    for way in ways.values():
        way.close()
    post_s, handle_s = _medians(comm, stream.work_s)
    check_s = _medians(comm, stream.check_s)[1]
    return Row(
        "broadcast",
        {"algorithm": algorithm, "ranks": comm.size, "bytes": content.size},
        samples["ours"],
        samples["reference"],
        REFERENCE,
        bytes_moved=float(content.size) * (comm.size - 1),
        wrong=total(comm, wrong),
        reduction=REDUCTION_MAX,
        derived={
            "clock_error_us": 1e6 * clocks.error_s,
            "post_us": 1e6 * post_s,
            "check_us": 1e6 * check_s,
            "handle_us": 1e6 * handle_s,
            "cores": float(len(cores_here(comm))),
        },
    )


def _medians(comm: MPI.Intracomm, mine_s: list[float]) -> tuple[float, float]:
    """Collective. Medians: of rank 0's values, and of the clients' medians; 0 where rank 0 has none."""
    mine, everyone = np.array([np.median(mine_s) if mine_s else 0.0]), np.zeros(comm.size)
    comm.Gather([mine, MPI.DOUBLE], [everyone, MPI.DOUBLE] if comm.rank == 0 else None, 0)
    return float(mine[0]), float(np.median(everyone[1:]))


def _content(codec: codecs.Codec) -> np.ndarray:
    x = torch.randn(codec.layout.elements, generator=torch.Generator().manual_seed(SEED))
    out = np.zeros(codec.payload_bytes(), dtype=np.uint8)
    codec.encode(x, out, SEED)
    return out


def _applier(codec: codecs.Codec) -> Callable[[np.ndarray], None]:
    x_hat = zeros(codec.layout.elements)
    return lambda payload: codec.accumulate(payload, x_hat, 1.0, SEED)


class Stream:
    """transport.broadcast's ends by one algorithm, as the wall driver uses them."""

    def __init__(self, comm: MPI.Intracomm, content: np.ndarray, algorithm: str):
        self.comm, self.content = comm, content
        described = wire.Expected(payload_bytes=content.size)
        self.accepted = {wire.Kind.BROADCAST: described}
        self.backoff = Backoff(crowded=crowded(comm))
        # Rank 0: seconds of posting, a rank that it sends to; a client: of checking, passing on and applying.
        self.work_s: list[float] = []
        self.check_s: list[float] = []  # a client's checks alone
        config = TransportConfig.model_validate({"broadcast": algorithm, "queue_limit": SLOTS})
        if comm.rank == 0:
            self.root = broadcasts.root(
                config, comm, TAG, payload_bytes=content.size, log_length=SLOTS, catch_up=None
            )
            frames = [self.root.frame() for _ in range(2 * SLOTS)]
            for frame in frames:
                frame.payload[:] = content
                self.root.pool.release(frame)
        else:
            self.leaf = broadcasts.leaf(
                config, comm, TAG, payload_bytes=content.size, catch_up_bytes=0, slots=SLOTS
            )
            self.accepted[wire.Kind.STOP] = self.leaf.stop

    def send(self) -> None:
        root = self.root
        self._until(lambda: bool(root.poll()), lambda: root.ready)
        frame, version = root.frame(), root.version
        frame.seal(
            wire.Kind.BROADCAST,
            expected=self.accepted[wire.Kind.BROADCAST],
            payload_bytes=self.content.size,
            version=version,
        )
        sent, begun = root.total, perf_counter()
        root.publish(frame)
        self.work_s.append((perf_counter() - begun) / (1 if isinstance(root, Ibcast) else root.total - sent))
        self._until(lambda: bool(root.poll()), lambda: root.idle)

    def receive(self, take: Callable[[np.ndarray], None]) -> None:
        """The next broadcast; returns when this rank's part in it is done, passing on included."""
        taken = stopped = False

        def progress() -> bool:
            nonlocal taken, stopped
            # One message only, but for the end: there may be several STOPs.
            passed, arrived = self.leaf.passed(), [] if taken and not stopped else self.leaf.poll()
            for received in arrived:
                begun = perf_counter()
                message = wire.check(received.data, self.accepted, rank=received.source)
                self.check_s.append(perf_counter() - begun)
                self.leaf.pass_on(received, message)
                if message.kind == wire.Kind.BROADCAST:
                    take(received.payload)
                    self.work_s.append(perf_counter() - begun)
                self.leaf.release(received.slot)
                taken, stopped = True, message.kind == wire.Kind.STOP
            return bool(passed or arrived)

        self._until(progress, lambda: taken and self.leaf.idle)

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
        """Collective: the end of the stream."""
        if self.comm.rank == 0:
            self.root.end(self.root.version)
            self._until(lambda: bool(self.root.poll()), lambda: self.root.idle)
            self.root.close()
        else:
            self.receive(lambda payload: None)
            self.leaf.close()


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


Way = Stream | Collective


def _once(way: Way, comm: MPI.Intracomm, content: np.ndarray) -> np.ndarray:
    kept: list[np.ndarray] = []
    if comm.rank == 0:
        way.send()
        return content
    way.receive(lambda payload: kept.append(payload.copy()))
    return kept[0]


def _case(
    comm: MPI.Intracomm,
    way: Way,
    apply: Callable[[np.ndarray], None],
    clocks: HostClocks,
    seen: list[Last],
) -> Case:
    """seen: which client was the last, a sample."""
    mine, everyone = np.zeros(1), np.zeros(comm.size)

    def take(payload: np.ndarray) -> None:
        apply(payload)
        mine[0] = perf_counter()

    def case() -> float:
        comm.Barrier()
        begun = perf_counter()
        if comm.rank == 0:
            way.send()
        else:
            way.receive(take)
        comm.Gather([mine, MPI.DOUBLE], [everyone, MPI.DOUBLE] if comm.rank == 0 else None, 0)
        if comm.rank != 0:
            return 0.0
        ended = everyone + clocks.offsets_s
        last = 1 + int(ended[1:].argmax())
        seen.append(Last(last, begun))
        return float(ended[last]) - begun

    return case
