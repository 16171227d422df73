"""qsgd: stochastic rounding to s levels a sign, with one scale per bucket.

Alistarh et al., NeurIPS 2017 (arXiv 1610.02132), Section 3.1, with the scale per bucket and ‖v‖_∞ as an
alternative to ‖v‖₂. Unbiased.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Codec, Layout, NonFiniteError, PayloadError, as_float32, floats
from qafel_mpi.kernels import cpu


def bucket_starts(layout: Layout, bucket: int | str) -> np.ndarray:
    """Where buckets begin, and d: every `bucket` elements, each layer, or the whole vector."""
    d = layout.elements
    if bucket == "layer":
        return np.unique(np.array(layout.offsets, dtype=np.int64))
    size = d if bucket == "tensor" else int(bucket)
    return np.append(np.arange(0, d, size, dtype=np.int64), d)


class QSGD(Codec):
    """Payload: one float32 scale a bucket, then two's-complement codes of `bits` bits (reference.py: slots).

    bits = 1 sends the sign, chosen at random so that E[±scale] = v.
    """

    name, id, unbiased = "qsgd", 2, True

    def __init__(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        *,
        bits: int = 4,
        levels: int | None = None,
        scale: str = "linf",
        bucket: int | str = 512,
        threads: int = 1,
    ):
        super().__init__(layout, dtype)
        self.bits = bits if levels is None else 1 + math.ceil(math.log2(levels + 1))
        self.s = max(1, 2 ** (bits - 1) - 1) if levels is None else levels
        self.kind = cpu.L2 if scale == "l2" else cpu.LINF
        self.threads = threads
        self.plan = cpu.plan(bucket_starts(layout, bucket))
        self.largest_bucket = int(np.diff(bucket_starts(layout, bucket)).max())
        self._scales = 4 * self.plan.buckets
        self._bytes = self._scales + self.plan.code_bytes(self.bits)
        self._segment = np.empty(int(np.diff(self.plan.starts).max()), dtype=np.float32)
        self._rounded = np.empty(layout.elements if dtype != torch.float32 else 0, dtype=np.float32)

    def payload_bytes(self) -> int:
        return self._bytes

    def delta(self) -> float:
        """1 − min(m/(4s²), √m/s), m the largest bucket; one bit: 2 − m. Rounding by less than a level has
        variance p(1 − p) ≤ min(1/4, p) levels², and ‖v‖₁ ≤ √m‖v‖₂ (Alistarh et al., Lemma 3.1)."""
        m, s = self.largest_bucket, self.s
        if self.bits == 1:
            return 2.0 - m
        return 1.0 - min(m / (4 * s * s), math.sqrt(m) / s)

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        p, v = self.plan, as_float32(x, self._rounded)
        scales, codes = self._regions(out)
        k0, k1 = cpu.split_key(key)

        def quantize(first: int, last: int) -> int:
            return cpu.quantize_range(
                v,
                p.starts,
                p.slots,
                p.bucket,
                first,
                last,
                self.kind,
                scales,
                self.s,
                self.bits,
                k0,
                k1,
                codes,
            )

        def scale(first: int, last: int) -> int:
            return cpu.scales_range(v, p.starts, p.bucket, first, last, self.kind, scales)

        found = quantize if p.single else scale
        if max(cpu.over_segments(found, p, self.threads, whole_buckets=True)) >= 0:
            self._refuse(v)
        if not p.single:
            cpu.over_segments(
                lambda first, last: cpu.encode_range(
                    v, p.starts, p.slots, p.bucket, first, last, scales, self.s, self.bits, k0, k1, codes
                ),
                p,
                self.threads,
            )
        self._write_back(scales, out)
        return self._bytes

    def decode(self, payload: np.ndarray, out: Tensor, key: int) -> None:
        self._decode(payload, out, 1.0, assign=True)

    def accumulate(self, payload: np.ndarray, acc: Tensor, weight: float, key: int) -> None:
        self._decode(payload, acc, weight, assign=False)

    def encode_difference(self, x: Tensor, x_hat: Tensor, out: np.ndarray, key: int) -> int:
        p = self.plan
        if not p.single:
            return super().encode_difference(x, x_hat, out, key)
        here, state = x.numpy(), x_hat.numpy()
        scales, codes = self._regions(out)
        k0, k1 = cpu.split_key(key)
        # One thread: x̂ must not have moved in part when a later bucket turns out not to be finite.
        if cpu.step_range(
            here, state, p.starts, p.slots, p.bucket, 0, p.segments, self.kind, scales, self.s, self.bits,
            k0, k1, codes, self._segment,
        ) >= 0:  # fmt: skip
            self._refuse(here - state)
        self._write_back(scales, out)
        return self._bytes

    def validate(self, payload: np.ndarray) -> None:
        super().validate(payload)
        scales = floats(payload[: self._scales], "<f4")
        if not (np.isfinite(scales) & (scales >= 0)).all():
            raise PayloadError(f"{self.name}: a scale is negative or not finite")

    def _decode(self, payload: np.ndarray, acc: Tensor, weight: float, *, assign: bool) -> None:
        p = self.plan
        scales, codes = floats(payload[: self._scales], "<f4"), payload[self._scales :]
        target = acc.numpy()
        factor = target.dtype.type(weight)
        cpu.over_segments(
            lambda first, last: cpu.decode_range(
                codes,
                p.starts,
                p.slots,
                p.bucket,
                first,
                last,
                scales,
                self.s,
                self.bits,
                factor,
                assign,
                target,
            ),
            p,
            self.threads,
        )

    def _regions(self, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return floats(out[: self._scales], "<f4"), out[self._scales : self._bytes]

    def _write_back(self, scales: np.ndarray, out: np.ndarray) -> None:
        if scales.base is None:  # out was not aligned: the scales lie in a copy
            out[: self._scales] = scales.view(np.uint8)

    def _refuse(self, v: np.ndarray) -> None:
        index = int(np.argmin(np.isfinite(v)))
        raise NonFiniteError(self.layout, index, float(v[index]))
