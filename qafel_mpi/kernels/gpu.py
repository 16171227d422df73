"""The kernels for CUDA tensors: the interface and the bytes of cpu.py and affine.py.

Only packed bytes cross to the host: through pinned memory, on a stream of the codec's own, so that what runs on
the caller's stream goes on meanwhile. `begin` starts an encoding, `finish` waits for that stream and hands the
bytes out; nothing else waits for the device.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.kernels.eager import EagerAffine, EagerKernels
from qafel_mpi.kernels.plan import Plan

FUSED_BITS = 8  # widest code that the Triton kernels write


class _Staging:
    """A payload on the device, its pinned twin on the host, and the stream on which one becomes the other."""

    def __init__(self, payload_bytes: int, device: torch.device):
        self.stream = torch.cuda.Stream(device)
        self.payload = torch.empty(payload_bytes, dtype=torch.uint8, device=device)
        self.host = torch.empty(payload_bytes, dtype=torch.uint8, pin_memory=True)
        self.finite = torch.empty(1, dtype=torch.int32, pin_memory=True)
        self._device = device

    def begin(self, encode: Callable[[Tensor], Tensor]) -> None:
        """encode(payload) returns whether the vector was finite; both are on their way to the host after."""
        self.stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self.stream):
            finite = encode(self.payload)
            self.host.copy_(self.payload, non_blocking=True)
            self.finite.copy_(finite.view(1), non_blocking=True)

    def finish(self, out: np.ndarray) -> int:
        """The payload to out. Returns 0 where the vector was not finite, else -1."""
        self.stream.synchronize()  # before the bytes are sent, and only then
        out[: self.host.numel()] = self.host.numpy()
        return -1 if int(self.finite) else 0

    def hand_in(self, payload: np.ndarray, decode: Callable[[Tensor], None]) -> None:
        """decode(payload), in order with the caller's stream on both sides; returns before it is done."""
        self.stream.synchronize()  # the pinned buffer may still be on its way to the device
        self.host.numpy()[:] = payload
        current = torch.cuda.current_stream(self._device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            self.payload.copy_(self.host, non_blocking=True)
            decode(self.payload)
        current.wait_stream(self.stream)

    def release(self) -> None:
        """Let the caller's stream go on only when this one is done: it has written the caller's vector."""
        torch.cuda.current_stream(self._device).wait_stream(self.stream)


class BucketKernels:
    """As cpu.BucketKernels, for CUDA tensors x, x_hat, acc; payloads are numpy arrays on the host."""

    def __init__(self, plan: Plan, *, bits: int, s: int, kind: int, device: torch.device):
        self._kernels = bucket_kernels(plan, bits, s, kind, device)
        size = 4 * plan.buckets + plan.code_bytes(bits)
        self._outgoing, self._incoming = _Staging(size, device), _Staging(size, device)

    def begin(self, x: Tensor, key: int) -> None:
        """Start encoding x, which must not change before `finish`."""
        self._outgoing.begin(lambda payload: self._kernels.encode(x, payload, key))

    def finish(self, out: np.ndarray) -> int:
        """The payload begun, to out."""
        return self._outgoing.finish(out)

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        self.begin(x, key)
        return self.finish(out)

    def step(self, x: Tensor, x_hat: Tensor, out: np.ndarray, key: int) -> int:
        self._outgoing.begin(lambda payload: self._kernels.step(x, x_hat, payload, key))
        self._outgoing.release()
        return self.finish(out)

    def decode(self, payload: np.ndarray, acc: Tensor, weight: float, *, assign: bool) -> None:
        self._incoming.hand_in(payload, lambda p: self._kernels.decode(p, acc, weight, assign=assign))


class AffineKernels:
    """As affine.AffineKernels, for CUDA tensors."""

    def __init__(
        self, wide: np.ndarray, plain: np.ndarray, *, bits: int, payload_bytes: int, device: torch.device
    ):
        self._kernels = EagerAffine(wide, plain, bits=bits)
        self._outgoing, self._incoming = _Staging(payload_bytes, device), _Staging(payload_bytes, device)

    def encode(self, x: Tensor, out: np.ndarray) -> int:
        self._outgoing.begin(lambda payload: self._kernels.encode(x, payload))
        return self._outgoing.finish(out)

    def decode(self, payload: np.ndarray, acc: Tensor, weight: float, *, assign: bool) -> None:
        self._incoming.hand_in(payload, lambda p: self._kernels.decode(p, acc, weight, assign=assign))


def bucket_kernels(plan: Plan, bits: int, s: int, kind: int, device: torch.device) -> Any:
    """Triton's where it is installed and the width is one of its own, else torch's operations."""
    if bits <= FUSED_BITS and importlib.util.find_spec("triton") is not None:
        from qafel_mpi.kernels.fused import FusedKernels  # takes a second to import

        return FusedKernels(plan, bits=bits, s=s, kind=kind, device=device)
    return EagerKernels(plan, bits=bits, s=s, kind=kind)
