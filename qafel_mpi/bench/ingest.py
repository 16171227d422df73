"""How many uploads a second rank 0 sustains: received, checked, decoded, accumulated and recorded.

Client ranks send as fast as they can. The reference receives the same payloads and does the same
decode-accumulate, one after the other, with no protocol: no header, no checksum, no state machine, no trace. Ours
adds up what has arrived together in one call. Both ways of transport.checksum are measured. Both sides keep as many
messages under way as the wall driver.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from mpi4py import MPI

from qafel_mpi import codecs, wire
from qafel_mpi.algorithms.client import Replica
from qafel_mpi.algorithms.config import ServerConfig, StalenessConfig
from qafel_mpi.algorithms.server import Server, Update
from qafel_mpi.bench.measuring.paths import CHECKSUMS, OurPath, RawPath, four_bits
from qafel_mpi.bench.measuring.ranks import REDUCTION_ROOT, agree, crowded, first, powers_of_two, total
from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Case, Limits, interleave
from qafel_mpi.kernels.memory import zeros
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.transport.config import TransportConfig
from qafel_mpi.transport.inbox import Received

REFERENCE = "raw mpi4py receives and the same decode-accumulate"
BURST_BYTES = 16 << 20  # that rank 0 takes in one sample, about
BURST = 100  # messages of a client in one sample, at most
SEED = 7  # of the vectors and their quantization
ROUNDS = 3  # before anything is timed: the sum is compared

RowOf = Callable[[Received, wire.Message, int, float, float], tuple[Any, ...]]  # drivers.rows.received_row


def rows(comm: MPI.Intracomm, limits: Limits, payloads: Sequence[int], row_of: RowOf) -> Iterator[Row]:
    """Collective. payloads: bytes, about; 4 bits an element. Clients: 1, 2, 4, … and all of comm's."""
    clients = sorted({*powers_of_two(1, comm.size - 1), comm.size - 1})
    for size in payloads:
        for count in clients:
            yield from first(comm, count + 1, _one(limits, size, row_of))


def _one(limits: Limits, size: int, row_of: RowOf) -> Callable[[MPI.Intracomm], list[Row]]:
    return lambda comm: _rows(comm, limits, size, row_of)


def under_way(comm: MPI.Intracomm) -> int:
    """Messages at this rank's end: as many as the wall driver's, and as its settings are by default."""
    defaults = TransportConfig()
    return defaults.receives(comm.size - 1) if comm.rank == 0 else defaults.upload_frames


def codec_for(payload_bytes: int) -> codecs.Codec:
    """The default codec, for payloads of about so many bytes."""
    return four_bits(max(1, 2 * payload_bytes * 256 // 260))


def _payload(codec: codecs.Codec, client: int) -> np.ndarray:
    """The upload of a client rank: the same at both ends."""
    generator = torch.Generator().manual_seed(SEED + client)
    x = torch.randn(codec.layout.elements, generator=generator)
    out = np.zeros(codec.payload_bytes(), dtype=np.uint8)
    codec.encode(x, out, SEED + client)
    return out


def _rows(comm: MPI.Intracomm, limits: Limits, size: int, row_of: RowOf) -> list[Row]:
    codec = codec_for(size)
    clients = comm.size - 1
    burst = max(2, min(BURST, BURST_BYTES // (clients * codec.payload_bytes())))
    content = _payload(codec, comm.rank)
    with tempfile.TemporaryDirectory(prefix="qafel-bench-") as folder:
        ends: dict[str, End] = {
            checksum: _Ours(comm, codec, content, checksum, row_of, Path(folder) / checksum)
            for checksum in CHECKSUMS
        }
        ends["reference"] = _Raw(comm, codec, content)
        wrong = 0
        for end in ends.values():
            _burst(comm, end, ROUNDS)
            wrong += end.wrong(clients) if comm.rank == 0 else 0
        cases = {name: _case(comm, end, burst) for name, end in ends.items()}
        samples = interleave(cases, limits, loops=burst * clients, agree=agree(comm))
        for end in ends.values():
            end.close()
    parameters = {"clients": clients, "bytes": codec.payload_bytes(), "elements": codec.layout.elements}
    wrong = total(comm, wrong)
    return [
        Row(
            "ingest",
            parameters | {"checksum": checksum},
            samples[checksum],
            samples["reference"],
            REFERENCE,
            bytes_moved=float(codec.payload_bytes()),
            wrong=wrong,
            reduction=REDUCTION_ROOT,
            derived={
                "uploads_per_s": 1 / max(samples[checksum].median, 1e-12),
                "reference_uploads_per_s": 1 / max(samples["reference"].median, 1e-12),
            },
        )
        for checksum in CHECKSUMS
    ]


class _Ours:
    """The way of an upload in the wall driver: check, server.receive, a row of the trace."""

    def __init__(
        self,
        comm: MPI.Intracomm,
        codec: codecs.Codec,
        content: np.ndarray,
        checksum: str,
        row_of: RowOf,
        folder: Path,
    ):
        described = wire.Expected(codec.id, codec.bits, 0, codec.layout.elements, content.size)
        window = under_way(comm)
        peer = MPI.ANY_SOURCE if comm.rank == 0 else 0
        self.path = OurPath(
            comm,
            peer,
            content,
            window,
            crowded=crowded(comm),
            described=described,
            checksum=checksum,
            take=self.take,
            note=self.note,
        )
        self.since_s = self.each_s = 0.0  # when the last messages were taken, and how long that took each
        self.row_of = row_of
        zero = torch.zeros(codec.layout.elements)
        never_full = ServerConfig(buffer_size=2**62)
        self.server = Server(
            zero, codec, Replica(zero, codec, assigns=False), never_full, StalenessConfig(), seed=0, clients=1
        )
        self.codec = codec
        self.recorder = Recorder(folder, comm.rank)

    def take(self, arrived: list[tuple[Received, wire.Message]]) -> None:
        self.since_s = perf_counter()
        self.server.receive_all(
            [Update(m.client, m.version, r.payload, m.seed, 1, m.train_seconds) for r, m in arrived]
        )
        self.each_s = (perf_counter() - self.since_s) / len(arrived)

    def note(self, arrived: list[tuple[Received, wire.Message]]) -> None:
        for i, (received, message) in enumerate(arrived):
            since_s = self.since_s + i * self.each_s
            self.recorder.messages.append(self.row_of(received, message, 0, since_s, since_s + self.each_s))

    def send(self, count: int) -> None:
        self.path.send(count)
        self.path.flush()

    def receive(self, count: int) -> None:
        self.path.receive(count)

    def wrong(self, clients: int) -> int:
        return _wrong(self.codec, self.server.buffer, clients)

    def close(self) -> None:
        self.path.close()
        self.recorder.close()


class _Raw:
    def __init__(self, comm: MPI.Intracomm, codec: codecs.Codec, content: np.ndarray):
        window = under_way(comm)
        self.codec, self.sum = codec, zeros(codec.layout.elements)
        peer = MPI.ANY_SOURCE if comm.rank == 0 else 0
        self.path = RawPath(comm, peer, content, window, take=self.take)

    def take(self, payload: np.ndarray) -> None:
        self.codec.accumulate(payload, self.sum, 1.0, 0)

    def send(self, count: int) -> None:
        self.path.send(count)

    def receive(self, count: int) -> None:
        self.path.receive(count)

    def wrong(self, clients: int) -> int:
        return _wrong(self.codec, self.sum, clients)

    def close(self) -> None:
        self.path.close()


End = _Ours | _Raw


def _wrong(codec: codecs.Codec, found: torch.Tensor, clients: int) -> int:
    """Elements that are not the sum of what the clients sent ROUNDS times; float32 in any order of addition."""
    wanted = torch.zeros(found.shape, dtype=torch.float64)
    for client in range(1, clients + 1):
        decoded = torch.zeros_like(found)
        codec.decode(_payload(codec, client), decoded, 0)
        wanted += ROUNDS * decoded.double()
    return int((~torch.isclose(found.double(), wanted, rtol=1e-5, atol=1e-4)).sum())


def _burst(comm: MPI.Intracomm, end: End, count: int) -> float:
    """Rank 0 says go, every client sends `count` messages. Seconds an upload, on rank 0."""
    go = np.zeros(0, dtype=np.uint8)
    if comm.rank != 0:
        comm.Recv([go, MPI.BYTE], 0, 1)
        end.send(count)
        return 0.0
    begun = perf_counter()
    for rank in range(1, comm.size):
        comm.Send([go, MPI.BYTE], rank, 1)
    end.receive(count * (comm.size - 1))
    return (perf_counter() - begun) / (count * (comm.size - 1))


def _case(comm: MPI.Intracomm, end: End, count: int) -> Case:
    return lambda: _burst(comm, end, count)
