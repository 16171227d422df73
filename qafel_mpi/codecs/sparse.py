"""topk and randk: a few coordinates, sent as they are.

topk keeps the k largest in magnitude: biased, δ = k/d (Stich et al., NeurIPS 2018, arXiv 1809.07599). randk keeps
k at random, scaled by d/k: unbiased; both ends draw the same coordinates from the message's key.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Codec, Layout, PayloadError
from qafel_mpi.codecs.device import DeviceCodec
from qafel_mpi.kernels.aligned import floats
from qafel_mpi.kernels.eager import EagerTopK
from qafel_mpi.kernels.numba.buckets import hash_counters
from qafel_mpi.kernels.numba.floats import all_finite

_HUGE = float(np.finfo(np.float32).max)


class _Sparse(Codec):
    bits = 32
    decodes_finite = True
    threaded = False  # torch and numpy look for the k with one

    def __init__(self, layout: Layout, dtype: torch.dtype = torch.float32, *, fraction: float):
        super().__init__(layout, dtype)
        self.k = max(1, int(fraction * layout.elements))

    @abstractmethod
    def _coordinates(self, payload: np.ndarray, key: int) -> Tensor:
        """(k,) int64, ascending."""

    def validate(self, payload: np.ndarray) -> np.ndarray:
        super().validate(payload)
        if not all_finite(self._values(payload).numpy()):
            raise PayloadError(f"{self.name}: a value is not finite")
        return payload

    def _decode(self, valid: np.ndarray, acc: Tensor, weight: float, key: int, *, assign: bool) -> None:
        where, values = self._coordinates(valid, key).to(acc.device), self._values(valid).to(acc)
        if assign:
            acc.zero_()
            acc[where] = values
        else:
            acc.index_add_(0, where, values, alpha=weight)

    def _values(self, payload: np.ndarray) -> Tensor:
        return torch.from_numpy(floats(payload[: 4 * self.k], "<f4"))

    def _write_values(self, values: Tensor, out: np.ndarray) -> None:
        out[: 4 * self.k] = values.cpu().numpy().view(np.uint8)


class TopK(_Sparse, DeviceCodec):
    """Payload: k float32 values, then their k uint32 coordinates, ascending."""

    name, id, unbiased = "topk", 4, False
    decodes_finite = True

    def payload_bytes(self) -> int:
        return 8 * self.k

    def delta(self) -> float:
        return self.k / self.layout.elements

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        if x.is_cuda:
            return self.begin(x, out, key).finish()
        self.require_finite(x.float())
        kept = torch.topk(x.abs(), self.k, sorted=False).indices.sort().values
        self._write_values(x[kept].float(), out)
        out[4 * self.k : 8 * self.k] = kept.numpy().astype("<u4").view(np.uint8)
        return 8 * self.k

    def validate(self, payload: np.ndarray) -> np.ndarray:
        super().validate(payload)
        where = self._coordinates(payload, 0)
        if not (where.diff() > 0).all() or where[-1] >= self.layout.elements:
            raise PayloadError(f"topk: coordinates are not ascending below {self.layout.elements}")
        return payload

    def _coordinates(self, payload: np.ndarray, key: int) -> Tensor:
        where = floats(payload[4 * self.k : 8 * self.k], "<u4")
        return torch.from_numpy(where.astype(np.int64))

    def _kernels_on(self, device: torch.device) -> EagerTopK:
        return EagerTopK(self.k)


class RandK(_Sparse):
    """Payload: k float32 values x_i · d/k, at the coordinates whose hash32(key, i) is among the k smallest.

    The hash is a bijection of i, so there are no ties. Coordinates are taken in ascending order. The host finds them,
    a GPU's too: such encodings are done at once, and the GPU waited for.
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
        self.require_finite(x.float())
        kept = x[self._coordinates(out, key).to(x.device)].float()
        # A value near the float's limit must not become an infinity that nobody can decode.
        self._write_values((kept * (self.layout.elements / self.k)).clamp_(-_HUGE, _HUGE), out)
        return 4 * self.k

    def _coordinates(self, payload: np.ndarray, key: int) -> Tensor:
        hash_counters(key & 0xFFFFFFFF, key >> 32, self._hashes)
        return torch.from_numpy(np.sort(np.argpartition(self._hashes, self.k - 1)[: self.k]))
