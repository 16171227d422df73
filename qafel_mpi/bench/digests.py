"""What the digest of an upload costs rank 0, as a share of all that it does for an upload.

All: check the header, decode and add up, write the rows, and its part of a server step of K = 10 uploads with the
encoding of q^t and the norms that the trace has. In one process, without messages. Evaluations are left out, so that
the share is rather too large. The reference is a pass over the payload that reads it and no more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from qafel_mpi import wire
from qafel_mpi.algorithms.client import Replica
from qafel_mpi.algorithms.config import ServerConfig, StalenessConfig
from qafel_mpi.algorithms.server import Server, Update
from qafel_mpi.bench.ingest import RowOf, codec_for
from qafel_mpi.bench.measuring.passes import read
from qafel_mpi.bench.measuring.result import MEMORY_PASS, Row
from qafel_mpi.bench.measuring.timing import Case, Limits, interleave
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace_schema import UPDATES
from qafel_mpi.transport.frames import Received, new_frame

SIZES = (15_000, 5_900_000)  # bytes: the paper's CNN and a ResNet-18, at 4 bits
K = 10
LEAST_SECONDS = 1e-3  # of a sample of digests
DigestOf = Callable[[np.ndarray], int]  # drivers.digests.digest


def rows(limits: Limits, row_of: RowOf, digest_of: DigestOf, sizes: Sequence[int] = SIZES) -> Iterator[Row]:
    """sizes: payloads in bytes, about. A sample is of K uploads; of short digests, of as many as are told apart."""
    torch.set_num_threads(1)
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="qafel-bench-") as folder:
            work = Work(size, row_of, Path(folder))
            count = max(K, int(LEAST_SECONDS / (1e-10 * size + 1e-7)))
            read(work.frame.payload)  # compiled
            cases: dict[str, Case] = {
                "digest": partial(work.payloads, digest_of, count),
                "pass": partial(work.payloads, read, count),
                "work": work.step,
            }
            samples = interleave(cases, limits, loops=K)
            work.recorder.close()
        share = samples["digest"].median / samples["work"].median
        yield Row(
            "tracing",
            {"operation": "digest", "bytes": work.frame.payload.size},
            samples["digest"],
            samples["pass"],
            MEMORY_PASS,
            bytes_moved=float(work.frame.payload.size),
            derived={"share": share, "work_us": 1e6 * samples["work"].median},
        )


class Work:
    """Rank 0's for uploads of one size."""

    def __init__(self, size: int, row_of: RowOf, folder: Path):
        codec = codec_for(size)
        d = codec.layout.elements
        x = torch.randn(d, generator=torch.Generator().manual_seed(0))
        self.server = Server(
            torch.zeros(d),
            codec,
            Replica(torch.zeros(d), codec, assigns=False),
            ServerConfig(buffer_size=K),
            StalenessConfig(),
            seed=0,
            clients=100,
        )
        self.frame = new_frame(codec.payload_bytes())
        self.out = np.zeros(codec.payload_bytes(), dtype=np.uint8)
        codec.encode(x, self.frame.payload, 0)
        described = wire.Expected(codec.id, codec.bits, wire.FLAG_HEADER_ONLY, d, codec.payload_bytes())
        self.expected = {wire.Kind.UPDATE: described}
        self.frame.seal(wire.Kind.UPDATE, payload_bytes=codec.payload_bytes(), expected=described)
        self.row_of, self.recorder = row_of, Recorder(folder, 0, flush_seconds=3600)
        self.update_row = tuple(np.zeros(1, dtype=UPDATES)[0].item())

    def step(self) -> float:
        """Seconds an upload, of K of them and the step that they complete."""
        begun = perf_counter()
        received = Received(0, self.frame.buffer.data, self.frame.payload, 1, 0.0, 0.0)
        for _ in range(K):
            message = wire.check(received.data, self.expected, rank=1)
            self.server.receive_all(
                [
                    Update(
                        message.client,
                        self.server.version,
                        received.payload,
                        message.seed,
                        1,
                        message.train_seconds,
                    )
                ]
            )
            self.recorder.messages.append(self.row_of(received, message, 0, begun, begun))
            self.recorder.updates.append(self.update_row)
        self.server.step(self.out)
        return (perf_counter() - begun) / K

    def payloads(self, function: Callable[[np.ndarray], object], count: int) -> float:
        """Seconds that a function of the payload takes."""
        payload = self.frame.payload
        begun = perf_counter()
        for _ in range(count):
            function(payload)
        return (perf_counter() - begun) / count
