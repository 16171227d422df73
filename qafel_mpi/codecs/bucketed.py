"""What the codecs with one scale per bucket share (qsgd, sign): payload, kernels, checks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Codec, Layout, PayloadError
from qafel_mpi.kernels import cpu
from qafel_mpi.kernels.plan import plan


class Bucketed(Codec):
    """Payload: one float32 scale a bucket, then the packed codes (FORMAT.md).

    bucket: elements, "layer" (each tensor) or "tensor" (the whole vector). kind: what a scale is
    (kernels.reference). s: levels a sign. threads: used where the vector is long enough.
    """

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
        self.bits, self.s = bits, s
        self.plan = plan(_bucket_starts(layout, bucket))
        self._bytes = 4 * self.plan.buckets + self.plan.code_bytes(bits)
        self._cpu = cpu.BucketKernels(self.plan, bits=bits, s=s, kind=kind, threads=threads)

    def payload_bytes(self) -> int:
        return self._bytes

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        if self._cpu.encode(x.numpy(), out, key) >= 0:
            self.refuse(x)
        return self._bytes

    def decode(self, payload: np.ndarray, out: Tensor, key: int) -> None:
        self._cpu.decode(payload, out.numpy(), 1.0, assign=True)

    def accumulate(self, payload: np.ndarray, acc: Tensor, weight: float, key: int) -> None:
        self._cpu.decode(payload, acc.numpy(), weight, assign=False)

    def encode_difference(self, x: Tensor, x_hat: Tensor, out: np.ndarray, key: int) -> int:
        if not self.plan.single:
            return super().encode_difference(x, x_hat, out, key)
        if self._cpu.step(x.numpy(), x_hat.numpy(), out, key) >= 0:
            self.refuse(x - x_hat)
        return self._bytes

    def validate(self, payload: np.ndarray) -> None:
        super().validate(payload)
        if not cpu.scales_valid(payload, self.plan.buckets):
            raise PayloadError(f"{self.name}: a scale is negative or not finite")


def _bucket_starts(layout: Layout, bucket: int | str) -> np.ndarray:
    """Where buckets begin, and d."""
    d = layout.elements
    if bucket == "layer":
        return np.unique(np.array(layout.offsets, dtype=np.int64))
    size = d if bucket == "tensor" else int(bucket)
    return np.append(np.arange(0, d, size, dtype=np.int64), d)
