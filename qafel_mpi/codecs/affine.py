"""affine: min-max quantization per tensor or bucket, rounded to nearest, as in the authors' neural-network runs.

FLSim's channel quantizes each tensor of 2 or more dimensions between its least and greatest value (zero always
included) and sends 1-D tensors (biases, norms) as float32. Deterministic and biased. Buckets within a tensor cost 12
bytes each, and take one pass over the vector where a tensor's range takes another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Layout, PayloadError
from qafel_mpi.codecs.device import DeviceCodec
from qafel_mpi.kernels.numba.affine import AffineKernels


class Affine(DeviceCodec):
    """Payload: a float64 scale per bucket, then an int32 zero point per bucket, the 1-D tensors as float32, then each
    bucket's codes (`bits` each, unsigned, least significant bit first, from a whole byte on). value = (code − zero) ·
    scale. bucket: "layer", one for each tensor of 2 or more dimensions, or so many elements of one. With "layer" and
    8, 4 or 2 bits this is the paper's message size.
    """

    name, id, unbiased = "affine", 3, False
    decodes_finite = True
    in_place = True
    starts_sums = True

    def __init__(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        *,
        bits: int = 8,
        bucket: int | str = "layer",
        threads: int = 1,
    ):
        super().__init__(layout, dtype)
        self.bits = bits
        extents = list(_extents(layout, bucket))
        at = 12 * sum(quantized for quantized, _, _ in extents)
        plain, wide = [], []
        for quantized, a, b in extents:
            if not quantized:
                plain.append((a, b, at))
                at += 4 * (b - a)
        for quantized, a, b in extents:
            if quantized:
                wide.append((a, b, at))
                at += -(-(b - a) * bits // 8)
        self._bytes = at
        self.tables = _table(wide), _table(plain)
        self._cpu = AffineKernels(
            *(_placed(table, layout) for table in self.tables), bits=bits, threads=threads
        )

    def payload_bytes(self) -> int:
        return self._bytes

    def delta(self) -> float:
        """0 is on the grid, so that no element's error is above its magnitude; that of the largest one, M, is at most
        half a step, M/(2^bits − 1), and M² ≥ ‖v‖²/m in a bucket of m. 1-D tensors have no error.
        """
        largest = int((self._cpu.wide[:, 1] - self._cpu.wide[:, 0]).max(initial=0))
        return (1 - (2**self.bits - 1) ** -2) / largest if largest else 1.0

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        if (self._on(x.device).encode(x, out, key) if x.is_cuda else self._cpu.encode(x.numpy(), out)) >= 0:
            self.refuse(x)
        return self._bytes

    def validate(self, payload: np.ndarray) -> np.ndarray:
        super().validate(payload)
        if not self._cpu.valid(payload):
            raise PayloadError(f"{self.name}: a scale, zero point or 1-D element that no encoder writes")
        return payload

    def _kernels_on(self, device: torch.device) -> Any:
        from qafel_mpi.kernels import gpu

        return gpu.affine_kernels(*self.tables, self.bits, device)


def _extents(layout: Layout, bucket: int | str) -> Iterator[tuple[bool, int, int]]:
    """(quantized, first element, end) of every bucket and every 1-D tensor, in the layout's order."""
    for shape, begin, end in zip(layout.shapes, layout.offsets, layout.offsets[1:], strict=False):
        quantized = len(shape) >= 2
        size = int(bucket) if quantized and bucket != "layer" else max(1, end - begin)
        for first in range(begin, end, size):
            yield quantized, first, min(first + size, end)


def _table(rows: list[tuple[int, int, int]]) -> np.ndarray:
    return np.array(rows, dtype=np.int64).reshape(len(rows), 3)


def _placed(table: np.ndarray, layout: Layout) -> np.ndarray:
    """The table with elements counted in the vector that the layout's places are in."""
    pieces = layout.pieces
    piece = np.searchsorted(pieces[:, 1], table[:, 0], side="right") - 1
    shift = np.maximum(pieces[piece, 0] - pieces[piece, 1], 0)
    return table + np.column_stack((shift, shift, np.zeros_like(shift)))
