"""The kernels for CUDA tensors: the bytes of the CPU's in kernels/numba/.

Only packed bytes cross to the host, on a stream of the codec's own, so that what runs on the caller's stream goes on
meanwhile: straight into a pinned buffer of the caller's, or through one kept here. `begin` starts an encoding; its
`ready` asks and its `finish` waits for an event behind the last byte; nothing else waits for the device.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.kernels.blocks import Blocks
from qafel_mpi.kernels.eager import EagerAffine, EagerKernels
from qafel_mpi.kernels.eager_eden import EagerEden
from qafel_mpi.kernels.eager_fp4 import EagerFp4
from qafel_mpi.kernels.plan import Plan

FUSED_BITS = 8  # widest code that the Triton kernels write


def pinned_bytes(size: int) -> Tensor:
    """Uninitialised uint8 on the host, page-locked: the device copies there and from there by itself."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def is_pinned(host: Tensor) -> bool:
    return host.is_pinned()


class _Outgoing:
    """Encodings on their way from the device, one at a time, on a stream that is not the caller's."""

    def __init__(self, payload_bytes: int, device: torch.device, stream: torch.cuda.Stream):
        self._device, self._size, self._stream = device, payload_bytes, stream
        self._done = torch.cuda.Event()
        self._finite = pinned_bytes(4).view(torch.int32)
        self._flag = self._finite  # the kernels' own, on the device
        self._copy_to: np.ndarray | None = None  # by the host, at the end

    @cached_property
    def _payload(self) -> Tensor:
        return torch.empty(self._size, dtype=torch.uint8, device=self._device)

    @cached_property
    def _host(self) -> Tensor:
        return pinned_bytes(self._size)

    def begin(self, encode: Callable[[Tensor], Tensor], out: np.ndarray | Tensor) -> _Outgoing:
        """encode(payload) returns whether the vector was finite. out: on the host, or a tensor on the device."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            if isinstance(out, Tensor):
                finite = encode(out[: self._size])
                self._copy_to = None
            else:
                finite = encode(self._payload)
                self._target(out).copy_(self._payload, non_blocking=True)
            self._flag = finite.view(1)
            self._finite.copy_(self._flag.to(torch.int32), non_blocking=True)
            self._done.record(self._stream)
        return self

    def _target(self, out: np.ndarray) -> Tensor:
        """Where the device copies to: out itself where it may."""
        target = torch.from_numpy(out[: self._size])
        if is_pinned(target):
            self._copy_to = None
            return target
        self._copy_to = out
        return self._host

    def ready(self) -> bool:
        return self._done.query()

    def finish(self) -> int:
        """Wait for what was begun. Returns 0 where the vector was not finite, else -1."""
        self._done.synchronize()  # before the bytes are sent, and only then
        if not int(self._finite):
            with torch.cuda.stream(self._stream):
                self._flag.fill_(1)  # for the next vector
            return 0
        if self._copy_to is not None:
            self._copy_to[: self._size] = self._host.numpy()
        return -1

    def release(self) -> None:
        """Let the caller's stream go on only when what was begun is done: it has written the caller's vector."""
        torch.cuda.current_stream(self._device).wait_event(self._done)


class _Incoming:
    """Payloads on their way to the device, in order with the caller's stream on both sides."""

    def __init__(self, payload_bytes: int, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._copied = torch.cuda.Event()
        # On its stream: memory that the caller's still uses is not handed out then.
        with torch.cuda.stream(self._stream):
            self._payload = torch.empty(payload_bytes, dtype=torch.uint8, device=device)
        self._host = pinned_bytes(payload_bytes)

    def hand_in(self, payload: np.ndarray, decode: Callable[[Tensor], None]) -> None:
        """decode(payload); returns before it is done, and the payload may change then."""
        self._copied.synchronize()  # the pinned buffer may still be on its way to the device
        self._host.numpy()[:] = payload
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            # Behind the last decode, not behind what the caller's stream has queued: that is for the vector.
            self._payload.copy_(self._host, non_blocking=True)
            self._copied.record(self._stream)
            self._stream.wait_stream(current)
            decode(self._payload)
        current.wait_stream(self._stream)


class DeviceKernels:
    """A codec's kernels, for CUDA tensors x, x_hat, acc; payloads are numpy arrays on the host."""

    def __init__(self, kernels: Any, payload_bytes: int, device: torch.device):
        """kernels: as bucket_kernels or affine_kernels gives them, for payloads on the device."""
        self._kernels, self._size, self._device = kernels, payload_bytes, device
        # One for all: the kernels have scratch of their own.
        self._stream = torch.cuda.Stream(device)
        self._outgoing, self._incoming = self._another(), _Incoming(payload_bytes, device)
        self._several = [self._outgoing]

    def _another(self) -> _Outgoing:
        return _Outgoing(self._size, self._device, self._stream)

    def begin(self, x: Tensor, out: np.ndarray | Tensor, key: int) -> _Outgoing:
        """Start encoding x; neither x nor out may be touched before it is finished, nor another begin."""
        return self._begin(self._outgoing, x, out, key)

    def _begin(self, outgoing: _Outgoing, x: Tensor, out: np.ndarray | Tensor, key: int) -> _Outgoing:
        return outgoing.begin(lambda payload: self._kernels.encode(x, payload, key), out)

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        return self.begin(x, out, key).finish()

    def encode_all(
        self, xs: Tensor, outs: Sequence[np.ndarray | Tensor] | np.ndarray, keys: Sequence[int]
    ) -> int:
        """encode of each row: all are begun before the first is waited for. Returns 0 where one is not finite."""
        while len(self._several) < len(outs):
            self._several.append(self._another())
        begun = [self._begin(*each) for each in zip(self._several, xs, outs, keys, strict=False)]
        return max([outgoing.finish() for outgoing in begun])  # every one, whatever the first has found

    def step(self, x: Tensor, x_hat: Tensor, out: np.ndarray, key: int) -> int:
        self._outgoing.begin(lambda payload: self._kernels.step(x, x_hat, payload, key), out)
        self._outgoing.release()
        return self._outgoing.finish()

    def decode(self, payload: np.ndarray, acc: Tensor, weight: float, *, assign: bool, **key: int) -> None:
        """key: of codecs that need one to decode."""
        self._incoming.hand_in(payload, lambda p: self._kernels.decode(p, acc, weight, assign=assign, **key))

    def sum(self, payload: np.ndarray, sums: Tensor, weight: float) -> None:
        self._incoming.hand_in(payload, lambda p: self._kernels.sum(p, sums, weight))


def bucket_kernels(plan: Plan, bits: int, s: int, kind: int, device: torch.device) -> Any:
    """Triton's where it is installed and the width is one of its own, else torch's operations."""
    if bits <= FUSED_BITS and _has_triton():
        from qafel_mpi.kernels.triton.buckets import FusedKernels  # takes a second to import

        return FusedKernels(plan, bits=bits, s=s, kind=kind, device=device)
    return EagerKernels(plan, bits=bits, s=s, kind=kind)


def eden_kernels(blocks: Blocks, bits: int, rotations: int, least_squares: bool, device: torch.device) -> Any:
    """As bucket_kernels."""
    if _has_triton():
        from qafel_mpi.kernels.triton.eden import FusedEden

        return FusedEden(blocks, bits=bits, rotations=rotations, least_squares=least_squares, device=device)
    return EagerEden(blocks, bits=bits, rotations=rotations, least_squares=least_squares)


def fp4_kernels(d: int, kind: int, nearest: bool, device: torch.device) -> Any:
    """As bucket_kernels."""
    if _has_triton():
        from qafel_mpi.kernels.triton.fp4 import FusedFp4

        return FusedFp4(d, kind=kind, nearest=nearest, device=device)
    return EagerFp4(d, kind=kind, nearest=nearest)


def affine_kernels(wide: np.ndarray, plain: np.ndarray, bits: int, device: torch.device) -> Any:
    """As bucket_kernels."""
    if _has_triton():
        from qafel_mpi.kernels.triton.affine import FusedAffine

        return FusedAffine(wide, plain, bits=bits, device=device)
    return EagerAffine(wide, plain, bits=bits)


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
