"""Two ranks: latency and bandwidth of our message path against raw mpi4py, in turns, as OSU's benchmarks do it.

Latency: half a round trip. Bandwidth: a window of messages one way and an empty answer. Ours has header, checksum
at both ends (of all bytes, and of the header alone: both ways of transport.checksum are measured), buffer pools and
progress by polling; the reference moves the same payload with no protocol.
Vector: the same two of a vector packed at 4 bits, encoding and decode-accumulate included, against the same vector
as float32 by raw mpi4py, accumulated: what packing gains or costs where the link is this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter

import numpy as np
import torch
from mpi4py import MPI

from qafel_mpi import wire
from qafel_mpi.bench.measuring.paths import CHECKSUMS, RAW, OurPath, Path, RawPath, Take, exchange, four_bits
from qafel_mpi.bench.measuring.ranks import REDUCTION_ROOT, agree, crowded, pattern, total, wrong_bytes
from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Case, Limits, interleave
from qafel_mpi.kernels.memory import zeros
from qafel_mpi.transport.inbox import Received

FLOATS = "raw mpi4py Isend/Irecv of float32, and an addition"
SEED = 5  # of the vector and its quantization
WINDOW = 8  # messages under way in the bandwidth test
LARGE_BYTES = 1 << 20  # from this size on:
LARGE_WINDOW = 2  # as many as a client's uploads, which the caches hold
BURST_BYTES = 32 << 20  # of one bandwidth sample, in whole messages: at least two windows, at most eight
LOOP_SECONDS = 100e-6  # of one latency sample, about
ONE_WAY_SECONDS = 5e-6  # guessed, plus the bytes at 5 GB/s: only to choose how many round trips make a sample


def rows(comm: MPI.Intracomm, limits: Limits, sizes: Sequence[int]) -> Iterator[Row]:
    """Collective over both ranks of comm. sizes: payload bytes."""
    for operation in (latency, bandwidth):
        for size in sizes:
            yield from operation(comm, limits, size)
    for make in VECTOR:
        for size in sizes:
            if size >= 4:
                yield from vector(comm, limits, size // 4, make)


def latency(comm: MPI.Intracomm, limits: Limits, size: int) -> list[Row]:
    return _rows(comm, limits, "latency", size, _round_trips(size), window=2, make=_ping_pong)


def _round_trips(size: int) -> int:
    return max(1, round(LOOP_SECONDS / (2 * (ONE_WAY_SECONDS + size / 5e9))))


def bandwidth(comm: MPI.Intracomm, limits: Limits, size: int) -> list[Row]:
    window = LARGE_WINDOW if size >= LARGE_BYTES else WINDOW
    return _rows(comm, limits, "bandwidth", size, _burst(size, window), window=window, make=_stream)


def _burst(size: int, window: int) -> int:
    return min(8 * window, max(2 * window, BURST_BYTES // max(size, 1)))


Make = Callable[[MPI.Intracomm, Path, int], Case]


def _rows(
    comm: MPI.Intracomm, limits: Limits, operation: str, size: int, loops: int, *, window: int, make: Make
) -> list[Row]:
    peer = 1 - comm.rank
    content, wanted = pattern(size, comm.rank), pattern(size, peer)
    paths: dict[str, Path] = {
        checksum: OurPath(comm, peer, content, window, crowded=crowded(comm), checksum=checksum)
        for checksum in CHECKSUMS
    }
    paths["reference"] = RawPath(comm, peer, content, window)
    wrong = sum(
        wrong_bytes(found, wanted) for path in paths.values() for found in exchange(path, comm.rank == 0)
    )
    cases = {name: make(comm, path, loops) for name, path in paths.items()}
    samples = interleave(cases, limits, loops=loops, agree=agree(comm))
    wrong += sum(wrong_bytes(path.last, wanted) for path in paths.values())  # the last messages, at both ends
    for path in paths.values():
        path.close()
    wrong = total(comm, wrong)
    return [
        Row(
            "p2p",
            {"operation": operation, "bytes": size, "checksum": checksum},
            samples[checksum],
            samples["reference"],
            RAW,
            bytes_moved=float(size),
            wrong=wrong,
            reduction=REDUCTION_ROOT,
        )
        for checksum in CHECKSUMS
    ]


def vector(comm: MPI.Intracomm, limits: Limits, elements: int, make: Make) -> list[Row]:
    """bytes: of the float32 vector; packed_bytes: of the payload. make: of VECTOR."""
    codec = four_bits(elements)
    x = torch.randn(elements, generator=torch.Generator().manual_seed(SEED))
    packed = np.zeros(codec.payload_bytes(), dtype=np.uint8)
    codec.encode(x, packed, SEED)
    decoded = torch.zeros(elements)
    codec.decode(packed, decoded, SEED)
    sums = {name: zeros(elements) for name in (*CHECKSUMS, "reference")}
    floats = x.numpy().view(np.uint8)

    def adder(checksum: str) -> Take:
        into = sums[checksum]

        def add(arrived: list[tuple[Received, wire.Message]]) -> None:
            for received, message in arrived:
                codec.accumulate(received.payload, into, 1.0, message.seed)

        return add

    def fill(out: np.ndarray) -> object:
        return codec.encode(x, out, SEED)

    def add_floats(payload: np.ndarray) -> None:
        sums["reference"].add_(torch.from_numpy(payload.view(np.float32)))

    peer = 1 - comm.rank
    paths: dict[str, Path] = {
        c: OurPath(comm, peer, packed, 2, crowded=crowded(comm), take=adder(c), fill=fill, checksum=c)
        for c in CHECKSUMS
    }
    paths["reference"] = RawPath(comm, peer, floats, 2, take=add_floats)

    def wrong_sums() -> int:
        """Of a few messages each way, added to nothing."""
        wrong = 0
        for name, path in paths.items():
            sums[name].zero_()
            rounds = len(list(exchange(path, comm.rank == 0)))
            wanted = (x if name == "reference" else decoded) * rounds
            wrong += int((~torch.isclose(sums[name], wanted, rtol=1e-5, atol=1e-6)).sum())
        return wrong

    wrong = wrong_sums()
    size = 4 * elements
    loops = _round_trips(size) if make is _ping_pong else _burst(size, LARGE_WINDOW)
    cases = {name: make(comm, path, loops) for name, path in paths.items()}
    samples = interleave(cases, limits, loops=loops, agree=agree(comm))
    wrong += wrong_sums()
    for path in paths.values():
        path.close()
    wrong = total(comm, wrong)
    return [
        Row(
            "p2p",
            {"operation": VECTOR[make], "bytes": size, "checksum": checksum},
            samples[checksum],
            samples["reference"],
            FLOATS,
            bytes_moved=float(size),
            wrong=wrong,
            reduction=REDUCTION_ROOT,
            derived={"packed_bytes": float(packed.size)},
        )
        for checksum in CHECKSUMS
    ]


def _ping_pong(comm: MPI.Intracomm, path: Path, loops: int) -> Case:
    """Half a round trip."""

    def sender() -> float:
        begun = perf_counter()
        for _ in range(loops):
            path.send(1)
            path.receive(1)
        return (perf_counter() - begun) / loops / 2

    def echo() -> float:
        for _ in range(loops):
            path.receive(1)
            path.send(1)
        return 0.0

    return sender if comm.rank == 0 else echo


def _stream(comm: MPI.Intracomm, path: Path, burst: int) -> Case:
    """Seconds a message, the answer to the burst included."""
    empty = np.zeros(0, dtype=np.uint8)

    def sender() -> float:
        begun = perf_counter()
        path.send(burst)
        comm.Recv([empty, MPI.BYTE], 1, 0)
        return (perf_counter() - begun) / burst

    def sink() -> float:
        path.receive(burst)
        comm.Send([empty, MPI.BYTE], 0, 0)
        return 0.0

    return sender if comm.rank == 0 else sink


VECTOR: Mapping[Make, str] = {_ping_pong: "vector", _stream: "vector bandwidth"}
