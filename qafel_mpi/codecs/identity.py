"""identity: the vector as it is, little-endian float32 or float64. No quantization, no error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Layout, PayloadError
from qafel_mpi.codecs.device import DeviceCodec
from qafel_mpi.kernels.aligned import floats
from qafel_mpi.kernels.eager import EagerFloats
from qafel_mpi.kernels.numba.floats import all_finite, copy_finite
from qafel_mpi.kernels.numba.floats_step import FloatsStep
from qafel_mpi.kernels.numba.pieces import add_pieces, add_rows, copy_pieces

SHORT_BYTES = 1 << 14  # payloads of pieces up to this size are worth copying, to be added by one call


class Identity(DeviceCodec):
    """Payload: d floats of the codec's type."""

    name, id, unbiased = "identity", 1, True
    decodes_finite = True
    in_place = True
    starts_sums = True
    moves = True

    def __init__(self, layout: Layout, dtype: torch.dtype = torch.float32, *, threads: int = 1):
        super().__init__(layout, dtype)
        self.bits = torch.finfo(dtype).bits
        self._numpy = f"<f{self.bits // 8}"
        self._bytes = layout.elements * self.bits // 8
        self._steps = [
            FloatsStep(layout.elements, self._numpy, threads, assign=assign) for assign in (False, True)
        ]

    def payload_bytes(self) -> int:
        return self._bytes

    def delta(self) -> float:
        return 1.0

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        if x.is_cuda:
            return self.begin(x, out, key).finish()
        size = self.payload_bytes()
        values = out[:size].view(self._numpy)
        if self.layout.places is None:
            finite = copy_finite(x.numpy(), values)
        else:
            finite = copy_pieces(x.numpy(), self.layout.pieces, values)
        if not finite:
            self.refuse(x)
        return size

    def one_pass(self, assigns: bool) -> FloatsStep:
        return self._steps[assigns]

    def validate(self, payload: np.ndarray) -> np.ndarray:
        super().validate(payload)
        if not all_finite(floats(payload, self._numpy)):
            raise PayloadError(f"{self.name}: the vector has an element that is not finite")
        return payload

    def _decode(self, valid: np.ndarray, acc: Tensor, weight: float, key: int, *, assign: bool) -> None:
        if acc.is_cuda:  # not a copy from pageable memory, which waits for all that is queued
            self._on(acc.device).decode(valid, acc, weight, assign=assign)
        elif self.layout.places is not None:
            add_pieces(floats(valid, self._numpy), self.layout.pieces, acc.numpy(), weight, assign=assign)
        elif assign and weight == 1:
            acc.copy_(self._vector(valid))
        elif assign:
            torch.mul(self._vector(valid), weight, out=acc)
        else:
            acc.add_(self._vector(valid), alpha=weight)

    def validate_all(self, payloads: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        if self.layout.places is None or self._bytes > SHORT_BYTES:
            return super().validate_all(payloads)
        rows = np.concatenate(payloads)
        if {payload.size for payload in payloads} != {self._bytes} or not all_finite(rows.view(self._numpy)):
            super().validate_all(payloads)
        return [rows]

    def _decode_all(
        self, valid: Sequence[np.ndarray], acc: Tensor, weights: Sequence[float], keys: Sequence[int]
    ) -> None:
        if acc.is_cuda or self.layout.places is None or self._bytes > SHORT_BYTES:
            super()._decode_all(valid, acc, weights, keys)
        else:
            add_rows(
                valid[0].view(self._numpy),
                self.layout.pieces,
                acc.numpy(),
                np.array(weights, dtype=np.float64),
            )

    def _kernels_on(self, device: torch.device) -> EagerFloats:
        return EagerFloats(self.dtype)

    def _vector(self, payload: np.ndarray) -> Tensor:
        return torch.from_numpy(floats(payload, self._numpy))
