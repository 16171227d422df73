"""topk and randk: a few coordinates, sent as they are.

topk keeps the k largest in magnitude: biased, δ = k/d (Stich et al., NeurIPS 2018, arXiv 1809.07599). randk keeps
k at random, scaled by d/k: unbiased; both ends draw the same coordinates from the message's key.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Codec, Layout, PayloadError, as_float32, floats
from qafel_mpi.kernels import cpu


class _Sparse(Codec):
    bits = 32

    def __init__(self, layout: Layout, dtype: torch.dtype = torch.float32, *, fraction: float):
        super().__init__(layout, dtype)
        self.k = max(1, int(fraction * layout.elements))
        self._rounded = np.empty(layout.elements if dtype != torch.float32 else 0, dtype=np.float32)

    def _values(self, payload: np.ndarray) -> np.ndarray:
        return floats(payload[: 4 * self.k], "<f4")

    def _coordinates(self, payload: np.ndarray, key: int) -> np.ndarray:
        raise NotImplementedError

    def decode(self, payload: np.ndarray, out: Tensor, key: int) -> None:
        out.zero_()
        out.numpy()[self._coordinates(payload, key)] = self._values(payload)

    def accumulate(self, payload: np.ndarray, acc: Tensor, weight: float, key: int) -> None:
        target = acc.numpy()
        target[self._coordinates(payload, key)] += target.dtype.type(weight) * self._values(payload)

    def validate(self, payload: np.ndarray) -> None:
        super().validate(payload)
        if not np.isfinite(self._values(payload)).all():
            raise PayloadError(f"{self.name}: a value is not finite")


class TopK(_Sparse):
    """Payload: k float32 values, then their k uint32 coordinates, ascending."""

    name, id, unbiased = "topk", 4, False

    def payload_bytes(self) -> int:
        return 8 * self.k

    def delta(self) -> float:
        return self.k / self.layout.elements

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        self.require_finite(x)
        v = as_float32(x, self._rounded)
        kept = torch.topk(torch.from_numpy(v).abs(), self.k, sorted=False).indices.sort().values.numpy()
        out[: 4 * self.k] = v[kept].view(np.uint8)
        out[4 * self.k : 8 * self.k] = kept.astype("<u4").view(np.uint8)
        return 8 * self.k

    def validate(self, payload: np.ndarray) -> None:
        super().validate(payload)
        where = self._coordinates(payload, 0).astype(np.int64)
        if not (np.diff(where) > 0).all() or where[-1] >= self.layout.elements:
            raise PayloadError(f"topk: coordinates are not ascending below {self.layout.elements}")

    def _coordinates(self, payload: np.ndarray, key: int) -> np.ndarray:
        return floats(payload[4 * self.k : 8 * self.k], "<u4")


class RandK(_Sparse):
    """Payload: k float32 values x_i · d/k, at the coordinates whose hash32(key, i) is among the k smallest.

    The hash is a bijection of i, so there are no ties. Coordinates are taken in ascending order.
    """

    name, id, unbiased = "randk", 5, True

    def __init__(self, layout: Layout, dtype: torch.dtype = torch.float32, *, fraction: float):
        super().__init__(layout, dtype, fraction=fraction)
        self._hashes = np.empty(layout.elements, dtype=np.uint32)

    def payload_bytes(self) -> int:
        return 4 * self.k

    def delta(self) -> float:
        """E‖Q(x) − x‖² = (d/k − 1)‖x‖²."""
        return 2.0 - self.layout.elements / self.k

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        self.require_finite(x)
        v = as_float32(x, self._rounded)
        scaled = v[self._coordinates(out, key)] * np.float32(self.layout.elements / self.k)
        # A value near the float's limit must not become an infinity that nobody can decode.
        np.clip(scaled, -np.finfo(np.float32).max, np.finfo(np.float32).max, out=scaled)
        out[: 4 * self.k] = scaled.view(np.uint8)
        return 4 * self.k

    def _coordinates(self, payload: np.ndarray, key: int) -> np.ndarray:
        cpu.hash_counters(key & 0xFFFFFFFF, key >> 32, self._hashes)
        return np.sort(np.argpartition(self._hashes, self.k - 1)[: self.k])
