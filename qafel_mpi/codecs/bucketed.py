"""What the codecs with one scale per bucket share (qsgd, sign): payload, kernels, checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Buffers, Layout, PayloadError
from qafel_mpi.codecs.device import DeviceCodec
from qafel_mpi.kernels.digests import Digests
from qafel_mpi.kernels.memory import vector
from qafel_mpi.kernels.numba import buckets as cpu
from qafel_mpi.kernels.numba import crc
from qafel_mpi.kernels.numba.bucket_digests import BucketDigests
from qafel_mpi.kernels.numba.bucket_step import BucketStep
from qafel_mpi.kernels.numba.rows import RowKernels
from qafel_mpi.kernels.plan import plan

# Payloads up to this size are worth copying, for several to be coded by one call of a kernel.
SHORT_BYTES = 4096
# Payloads from this size on are digested while they are decoded: the digest of 15 kB took 0.2 µs more so, and 0.45 µs
# where fastcrc read it once more behind the decoding. Of shorter ones one call may code several, and takes none.
DIGESTED_BYTES = SHORT_BYTES


class Bucketed(DeviceCodec):
    """Payload: one float32 scale a bucket, then the packed codes (FORMAT.md).

    bucket: elements, "layer" (each tensor) or "tensor" (the whole vector; of a part of one each piece). kind: what a
    scale is (kernels.reference). s: levels a sign. threads: used where the vector is long enough.
    """

    decodes_finite = True
    in_place = True
    starts_sums = True
    moves = True

    def __init__(
        self,
        layout: Layout,
        dtype: torch.dtype,
        *,
        bits: int,
        s: int,
        kind: int,
        bucket: int | str,
        threads: int,
    ):
        super().__init__(layout, dtype)
        self.bits, self.s, self.kind = bits, s, kind
        self.plan = plan(_bucket_starts(layout, bucket))
        self._bytes = 4 * self.plan.buckets + self.plan.code_bytes(bits)
        pieces = None if layout.places is None else layout.pieces
        self._cpu = cpu.BucketKernels(self.plan, bits=bits, s=s, kind=kind, threads=threads, pieces=pieces)
        self._step = BucketStep(self._cpu, threads)
        self._digesting: BucketDigests | None = None
        self._found = Digests()  # where they go
        self._rows = RowKernels(self._cpu) if self.plan.single and self._bytes <= SHORT_BYTES else None

    def payload_bytes(self) -> int:
        return self._bytes

    def take_digests(self, found: Digests) -> bool:
        if self._bytes >= DIGESTED_BYTES and crc.width():
            self._digesting, self._found = BucketDigests(self._cpu), found
        return self._digesting is not None

    def _decode(self, valid: np.ndarray, acc: Tensor, weight: float, key: int, *, assign: bool) -> None:
        if acc.is_cuda:
            super()._decode(valid, acc, weight, key, assign=assign)
        elif self._digesting is None:
            self._cpu.decode(valid, acc.numpy(), weight, assign=assign)
        else:
            found = self._found
            if found.payload is not None:  # asked here: a call takes as long as 4 kB to be digested
                found.keep()
            found.digest = self._digesting.decode(valid, acc.numpy(), weight, assign=assign)
            found.payload = valid

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        bad = self._on(x.device).encode(x, out, key) if x.is_cuda else self._cpu.encode(x.numpy(), out, key)
        if bad >= 0:
            self.refuse(x)
        return self._bytes

    def encode_all(self, xs: Tensor, outs: Buffers, keys: np.ndarray) -> list[int]:
        if self._rows is None or xs.is_cuda:
            return super().encode_all(xs, outs, keys)
        own = None if isinstance(outs, np.ndarray) else np.empty((len(outs), self._bytes), dtype=np.uint8)
        payloads = np.asarray(outs) if own is None else own
        if (bad := self._rows.encode(xs.numpy(), payloads, keys)) >= 0:
            self.refuse(xs[bad])
        if own is not None:
            for out, payload in zip(outs, own, strict=True):
                out[: self._bytes] = payload
        return [self._bytes] * len(outs)

    def accumulate_all(
        self, payloads: Sequence[np.ndarray], acc: Tensor, weights: Sequence[float], keys: Sequence[int]
    ) -> None:
        if acc.is_cuda or len(payloads) == 1 or not self.decodes_finite:
            super().accumulate_all(payloads, acc, weights, keys)
            return
        if self._rows is None or {payload.size for payload in payloads} != {self._bytes}:
            for payload in payloads:
                self.validate(payload)
            if self._digesting is None:
                self._cpu.accumulate(payloads, acc.numpy(), weights)
            else:
                digests = self._digesting.accumulate(payloads, acc.numpy(), weights)
                for payload, digest in zip(payloads, digests, strict=True):
                    self._found.keep()
                    self._found.payload, self._found.digest = payload, digest
            return
        rows = np.concatenate(payloads).reshape(-1, self._bytes)
        if self._rows.invalid(rows) >= 0:
            for payload in payloads:
                self.validate(payload)
        self._rows.accumulate(rows, acc.numpy(), np.array(weights))

    def encode_difference(self, x: Tensor, x_hat: Tensor, out: np.ndarray, key: int) -> int:
        if not self.plan.single:
            return super().encode_difference(x, x_hat, out, key)
        on_gpu = x.is_cuda
        bad = (
            self._on(x.device).step(x, x_hat, out, key)
            if on_gpu
            else self._cpu.step(x.numpy(), x_hat.numpy(), out, key)
        )
        if bad >= 0:
            self.refuse(x - x_hat)
        return self._bytes

    def one_pass(self, assigns: bool) -> BucketStep | None:
        return None if assigns or not self.plan.single else self._step

    def validate(self, payload: np.ndarray) -> np.ndarray:
        if payload.size != self._bytes:
            super().validate(payload)
        if not cpu.scales_valid(payload, self.plan.buckets, self._cpu.most):
            if not cpu.scales_valid(payload, self.plan.buckets, cpu.FINITE):
                raise PayloadError(f"{self.name}: a scale is negative or not finite")
            # Near the largest float, a code that no encoder writes may be an infinity.
            self.require_finite_decoding(payload, vector(self.layout.extent, torch.float32), 0)
        return payload

    def _kernels_on(self, device: torch.device) -> Any:
        from qafel_mpi.kernels import gpu

        return gpu.bucket_kernels(self.plan, self.bits, self.s, self.kind, device)


def _bucket_starts(layout: Layout, bucket: int | str) -> np.ndarray:
    """Where buckets begin, and d. None reaches from one piece of the layout to the next."""
    d = layout.elements
    if bucket == "layer":
        return np.unique(np.array(layout.offsets, dtype=np.int64))
    size = d if bucket == "tensor" else int(bucket)
    starts = [np.arange(begin, begin + count, size) for _, begin, count in layout.pieces]
    return np.append(np.concatenate(starts), d)
