"""sign: one bit a coordinate, scaled by the bucket's mean magnitude.

Karimireddy et al., ICML 2019 (arXiv 1901.09847): Q(v) = (‖v‖₁/m) sign(v), the best multiple of sign(v). Biased;
δ = ‖v‖₁²/(m‖v‖₂²), at least 1/m.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Codec, Layout, NonFiniteError, PayloadError, as_float32, floats
from qafel_mpi.codecs.qsgd import bucket_starts
from qafel_mpi.kernels import cpu


class Sign(Codec):
    """Payload: a float32 scale per bucket, then one bit per element (1: negative), least significant first."""

    name, id, unbiased, bits = "sign", 6, False, 1

    def __init__(
        self, layout: Layout, dtype: torch.dtype = torch.float32, *, bucket: int | str = 512, threads: int = 1
    ):
        super().__init__(layout, dtype)
        self.plan = cpu.plan(bucket_starts(layout, bucket))
        self.largest_bucket = int(np.diff(bucket_starts(layout, bucket)).max())
        self._scales = 4 * self.plan.buckets
        self._rounded = np.empty(layout.elements if dtype != torch.float32 else 0, dtype=np.float32)
        self._lengths = np.diff(bucket_starts(layout, bucket))

    def payload_bytes(self) -> int:
        return self._scales + -(-self.layout.elements // 8)

    def delta(self) -> float:
        return 1.0 / self.largest_bucket

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        v, p = as_float32(x, self._rounded), self.plan
        scales = np.empty(p.buckets, dtype="<f4")
        if cpu.scales_range(v, p.starts, p.bucket, 0, p.segments, cpu.MEAN, scales) >= 0:
            index = int(np.argmin(np.isfinite(v)))
            raise NonFiniteError(self.layout, index, float(v[index]))
        out[: self._scales] = scales.view(np.uint8)
        cpu.pack_signs(v, out[self._scales : self.payload_bytes()])
        return self.payload_bytes()

    def decode(self, payload: np.ndarray, out: Tensor, key: int) -> None:
        np.copyto(out.numpy(), self._expand(payload))

    def accumulate(self, payload: np.ndarray, acc: Tensor, weight: float, key: int) -> None:
        target = acc.numpy()
        target += target.dtype.type(weight) * self._expand(payload)

    def validate(self, payload: np.ndarray) -> None:
        super().validate(payload)
        scales = floats(payload[: self._scales], "<f4")
        if not (np.isfinite(scales) & (scales >= 0)).all():
            raise PayloadError(f"{self.name}: a scale is negative or not finite")

    def _expand(self, payload: np.ndarray) -> np.ndarray:
        """±scale per element, float32."""
        values = np.repeat(floats(payload[: self._scales], "<f4"), self._lengths)
        negative = np.unpackbits(payload[self._scales :], count=values.size, bitorder="little")
        return np.negative(values, out=values, where=negative.view(bool))
