"""affine: min-max quantization per tensor, rounded to nearest, as in the authors' neural-network runs.

FLSim's channel quantizes each tensor of 2 or more dimensions between its least and greatest value (zero always
included) and sends 1-D tensors (biases, norms) as float32. Deterministic and biased.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Codec, Layout, PayloadError, as_float32, floats
from qafel_mpi.kernels import cpu


class Affine(Codec):
    """Payload: a float64 scale per quantized tensor, then an int32 zero point per quantized tensor, the 1-D
    tensors as float32, then each quantized tensor's codes (`bits` each, unsigned, least significant bit first,
    from a whole byte on). value = (code − zero) · scale. At 8, 4 and 2 bits this is the paper's message size.
    """

    name, id, unbiased = "affine", 3, False

    def __init__(self, layout: Layout, dtype: torch.dtype = torch.float32, *, bits: int = 8):
        super().__init__(layout, dtype)
        self.bits = bits
        spans = list(zip(layout.offsets, layout.offsets[1:], strict=False))
        wide = [len(shape) >= 2 for shape in layout.shapes]
        self._quantized = [slice(a, b) for (a, b), q in zip(spans, wide, strict=True) if q and b > a]
        self._plain = [slice(a, b) for (a, b), q in zip(spans, wide, strict=True) if not q and b > a]
        tensors = len(self._quantized)
        self._zeros_at = 8 * tensors
        self._plain_at = 12 * tensors
        at = self._plain_at + 4 * sum(s.stop - s.start for s in self._plain)
        self._codes: list[slice] = []
        for s in self._quantized:
            size = -(-(s.stop - s.start) * bits // 8)
            self._codes.append(slice(at, at + size))
            at += size
        self._bytes = at
        self._rounded = np.empty(layout.elements if dtype != torch.float32 else 0, dtype=np.float32)

    def payload_bytes(self) -> int:
        return self._bytes

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        self.require_finite(x)
        v = as_float32(x, self._rounded)
        top = (1 << self.bits) - 1
        scales, zeros = np.empty(len(self._quantized), "<f8"), np.empty(len(self._quantized), "<i4")
        for k, (where, codes) in enumerate(zip(self._quantized, self._codes, strict=True)):
            least, greatest = min(float(v[where].min()), 0.0), max(float(v[where].max()), 0.0)
            scales[k] = (greatest - least) / top or 1.0
            zeros[k] = min(max(round(-least / scales[k]), 0), top)
            cpu.affine_encode(v[where], scales[k], float(zeros[k]), self.bits, out[codes])
        out[: self._zeros_at] = scales.view(np.uint8)
        out[self._zeros_at : self._plain_at] = zeros.view(np.uint8)
        at = self._plain_at
        for where in self._plain:
            plain = v[where].view(np.uint8)
            out[at : at + plain.size] = plain
            at += plain.size
        return self._bytes

    def decode(self, payload: np.ndarray, out: Tensor, key: int) -> None:
        self._decode(payload, out, 1.0, assign=True)

    def accumulate(self, payload: np.ndarray, acc: Tensor, weight: float, key: int) -> None:
        self._decode(payload, acc, weight, assign=False)

    def validate(self, payload: np.ndarray) -> None:
        super().validate(payload)
        scales, zeros = self._table(payload)
        if not (np.isfinite(scales) & (scales > 0)).all():
            raise PayloadError(f"{self.name}: a scale is not a positive number")
        if not ((zeros >= 0) & (zeros < 1 << self.bits)).all():
            raise PayloadError(f"{self.name}: a zero point is not a code of {self.bits} bits")

    def _decode(self, payload: np.ndarray, acc: Tensor, weight: float, *, assign: bool) -> None:
        target = acc.numpy()
        factor = target.dtype.type(weight)
        scales, zeros = self._table(payload)
        for k, (where, codes) in enumerate(zip(self._quantized, self._codes, strict=True)):
            cpu.affine_decode(
                payload[codes], scales[k], float(zeros[k]), self.bits, factor, assign, target[where]
            )
        at = self._plain_at
        for where in self._plain:
            size = 4 * (where.stop - where.start)
            plain = floats(payload[at : at + size], "<f4")
            if assign:
                target[where] = plain
            else:
                target[where] += factor * plain
            at += size

    def _table(self, payload: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return floats(payload[: self._zeros_at], "<f8"), floats(
            payload[self._zeros_at : self._plain_at], "<i4"
        )
