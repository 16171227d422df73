"""The GPU's kernels alone, device to device, against a copy on that device that moves as many bytes.

Timed are the operations themselves, one behind the other as a recorded graph of launches replays them, with the
device's own clock; `call_us` is what one call takes from Python, its launch and the wait for it counted. What
crosses to the host is a payload (kernels/gpu.py), and not timed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.bench.codec import OPERATIONS, SEED, Point, contracts
from qafel_mpi.bench.measuring.result import DEVICE_COPY, Row
from qafel_mpi.bench.measuring.timing import Case, Limits, calibrate, interleave, measure, timed
from qafel_mpi.codecs import Codec, Layout, build
from qafel_mpi.codecs.bucketed import Bucketed
from qafel_mpi.codecs.device import DeviceCodec
from qafel_mpi.codecs.eden import Eden
from qafel_mpi.kernels.keys import Stream, derive

SAMPLE_S = 1e-3  # of calls in a row that make a sample
WEIGHT = 0.3  # of a decoded payload
MOST_LAUNCHES = 512  # in a graph
CALL_LIMITS = Limits(seconds=0.2, least=5)


def rows(
    points: Sequence[Point],
    limits: Limits,
    device: torch.device,
    missing: Callable[[str], None] = lambda line: None,
) -> Iterator[Row]:
    """Rows of the codecs with kernels for a device; `threads` is 0 in them, and `device` its name. missing: is told
    which others have none."""
    without: set[str] = set()
    for point in points:
        codec = build(point.config, Layout(("weight",), ((1, point.d),)))
        if (bench := _bench(codec, device)) is not None:
            for operation in OPERATIONS:
                if operation != "hidden_step" or contracts(codec, bench.host, missing):
                    yield bench.row(operation, limits)
        elif codec.name not in without:
            without.add(codec.name)
            missing(f"{codec.name} has no kernels for a GPU that encode and decode, so it has no rows there")


def _bench(codec: Codec, device: torch.device) -> _Bench | None:
    """None where the codec's kernels on a device do not do both, as those of topk, which encode alone."""
    kernels = codec._kernels_on(device) if isinstance(codec, DeviceCodec) else None
    return _Bench(codec, kernels, device) if hasattr(kernels, "decode") else None


class _Bench:
    """One codec's vectors on the device."""

    def __init__(self, codec: Codec, kernels: Any, device: torch.device):
        d = codec.layout.elements
        self.codec, self.kernels, self.device = codec, kernels, device
        # encode_difference in one kernel
        self._fused = isinstance(codec, Eden) or (isinstance(codec, Bucketed) and codec.plan.single)
        self.key = derive(SEED, Stream.UPLINK, 0, 0)
        self._decodes_with = {"key": self.key} if isinstance(codec, Eden) else {}
        self.host = torch.randn(d, generator=torch.Generator().manual_seed(SEED))
        self.x = self.host.to(device)
        self.acc, self.x_hat, self._difference = (torch.zeros(d, device=device) for _ in range(3))
        self._targets, self._turn = (self.x, -self.x), 0
        self.payload, self._stepped = (
            torch.zeros(codec.payload_bytes(), dtype=torch.uint8, device=device) for _ in range(2)
        )
        self._encode()

    def _encode(self) -> None:
        self._write(self.x, self.payload)

    def _write(self, x: Tensor, payload: Tensor) -> None:
        self.kernels.encode(x, payload, self.key)

    def _decode_accumulate(self) -> None:
        self.kernels.decode(self.payload, self.acc, WEIGHT, assign=False, **self._decodes_with)

    def _hidden_step(self) -> None:
        self._turn ^= 1
        target = self._targets[self._turn]
        if self._fused:
            self.kernels.step(target, self.x_hat, self._stepped, self.key)
            return
        self._write(torch.sub(target, self.x_hat, out=self._difference), self._stepped)
        self.kernels.decode(self._stepped, self.x_hat, 1.0, assign=False)

    def _awaited(self, launch: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            launch()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        return run

    def _in_a_row(self, launch: Callable[[], object], launches: int) -> Case:
        """A case: seconds a launch, of so many."""
        if self.device.type != "cuda":
            return timed(launch, launches)
        stream, graph = torch.cuda.Stream(self.device), torch.cuda.CUDAGraph()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(self.device)
        with torch.cuda.stream(stream):
            launch()  # what is compiled or loaded at the first call can't be recorded
            torch.cuda.synchronize(self.device)
            with torch.cuda.graph(graph, stream=stream):
                for _ in range(launches):
                    launch()
        torch.cuda.synchronize(self.device)

        def case() -> float:
            with torch.cuda.stream(stream):
                begin.record()
                graph.replay()
                end.record()
            end.synchronize()
            return float(begin.elapsed_time(end)) / 1e3 / launches  # it gives milliseconds

        return case

    def row(self, operation: str, limits: Limits) -> Row:
        vectors = {"encode": 1, "decode_accumulate": 2, "hidden_step": 3}[operation]
        traffic = 4 * vectors * self.x.numel() + self.payload.numel()
        # A copy reads and writes each byte.
        source = torch.zeros(traffic // 2, dtype=torch.uint8, device=self.device)
        copy = torch.empty_like(source)
        ours: Callable[[], object] = getattr(self, f"_{operation}")
        call = self._awaited(ours)
        loops = calibrate(call, SAMPLE_S)
        loops = min(loops + loops % 2, MOST_LAUNCHES)  # even: a hidden step goes to its two targets in turns
        cases = {
            "ours": self._in_a_row(ours, loops),
            "copy": self._in_a_row(lambda: copy.copy_(source), loops),
        }
        samples = interleave(cases, limits, loops=loops)
        about = {
            "operation": operation,
            "codec": self.codec.name,
            "bits": self.codec.bits,
            "d": self.x.numel(),
            "threads": 0,
            "device": _name(self.device),
        }
        derived = {
            "float32_gb_per_s": 4 * self.x.numel() / samples["ours"].median / 1e9,
            "payload_bytes": float(self.payload.numel()),
            "call_us": 1e6 * measure(timed(call), CALL_LIMITS).median,
        }
        wrong = self._wrong(operation)
        return Row(
            "codec", about, samples["ours"], samples["copy"], DEVICE_COPY, traffic, wrong, derived=derived
        )

    def _wrong(self, operation: str) -> int:
        """Bytes of what the operation writes, payload and vector, that the CPU's kernels write otherwise."""
        wanted = np.zeros(self.payload.numel(), dtype=np.uint8)
        if operation == "hidden_step":
            state = self.host.flip(0)
            self.x_hat.copy_(state)
            self._turn = 1  # the next target is x
            self.codec.encode_difference(self.host, state, wanted, self.key)
            self._hidden_step()
            return _differing(self._stepped, wanted) + _differing(self.x_hat, state.numpy())
        self.codec.encode(self.host, wanted, self.key)
        self._encode()
        wrong = _differing(self.payload, wanted)
        if operation == "decode_accumulate":
            acc = self.host.flip(0)
            self.acc.copy_(acc)
            self.codec.accumulate(wanted, acc, WEIGHT, self.key)
            self._decode_accumulate()
            wrong += _differing(self.acc, acc.numpy())
        return wrong


def _differing(ours: Tensor, wanted: np.ndarray) -> int:
    return int((ours.cpu().numpy().view(np.uint8) != wanted.view(np.uint8)).sum())


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
