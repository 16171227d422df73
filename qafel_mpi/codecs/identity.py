"""identity: the vector as it is, little-endian float32 or float64. No quantization, no error."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Codec, Layout, PayloadError, floats


class Identity(Codec):
    """Payload: d floats of the codec's type."""

    name, id, unbiased = "identity", 1, True

    def __init__(self, layout: Layout, dtype: torch.dtype = torch.float32):
        super().__init__(layout, dtype)
        self.bits = torch.finfo(dtype).bits
        self._numpy = f"<f{self.bits // 8}"

    def payload_bytes(self) -> int:
        return self.layout.elements * self.bits // 8

    def delta(self) -> float:
        return 1.0

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        self.require_finite(x)
        size = self.payload_bytes()
        torch.from_numpy(out[:size]).copy_(x.to(self.dtype).view(torch.uint8))
        return size

    def validate(self, payload: np.ndarray) -> np.ndarray:
        super().validate(payload)
        if not np.isfinite(floats(payload, self._numpy)).all():
            raise PayloadError(f"{self.name}: the vector has an element that is not finite")
        return payload

    def _decode(self, valid: np.ndarray, acc: Tensor, weight: float, key: int, *, assign: bool) -> None:
        if assign:
            acc.copy_(self._vector(valid))
        else:
            acc.add_(self._vector(valid).to(acc.device), alpha=weight)

    def _vector(self, payload: np.ndarray) -> Tensor:
        return torch.from_numpy(floats(payload, self._numpy))
