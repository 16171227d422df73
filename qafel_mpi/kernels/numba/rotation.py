"""Rotations of vectors of floats on the CPU: signs from a key and a Hadamard transform of each bucket, and back.

Every sum is of two numbers, in reference.hadamard's order, so that the bits are the same everywhere.
"""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.aligned import aligned_bytes
from qafel_mpi.kernels.blocks import LANES, Blocks
from qafel_mpi.kernels.numba import lanes as simd
from qafel_mpi.kernels.numba.hadamard import draw_in, passes, spread_out
from qafel_mpi.kernels.numba.jit import helper, jit, part
from qafel_mpi.kernels.numba.rounding import draw

_GROUP = simd.GROUP


@helper
def _turn(z, m, position, k0, k1, factors, signs, back):
    """z = H·D·z·factor, or back: D·H·z·factor. z: LANES buckets of m elements."""
    draw(k0, k1, position, m, signs)
    if not back:
        for g in range(m >> 3):
            simd.flip(z, LANES * _GROUP * g, factors, signs, 4 * g)
    passes(z, m)
    for g in range(m >> 3):
        simd.butterflies8(z, LANES * _GROUP * g, LANES)
    if back:
        for g in range(m >> 3):
            simd.flip(z, LANES * _GROUP * g, factors, signs, 4 * g)


@jit
def _rotate(source, target, m, whole, last_m, lanes, k0, k1, factors, last_factors, signs, rows, back):
    for k in range(whole):
        z = part(target, LANES * m * k, LANES * m * (k + 1))
        z[:] = part(source, LANES * m * k, LANES * m * (k + 1))
        _turn(z, m, m * k, k0, k1, factors, signs, back)
    begin = LANES * m * whole
    if begin == source.size and begin == target.size:
        return
    spread_out(part(source, begin, source.size), source.size - begin, lanes, rows)
    _turn(rows, last_m, m * whole, k0, k1, last_factors, signs, back)
    draw_in(rows, target.size - begin, lanes, target, begin)


class RotationKernels:
    """Rotate vectors of one length and type. Owns its scratch."""

    def __init__(self, blocks: Blocks, kind: np.dtype, *, unit: bool = True):
        """unit: each bucket keeps its norm, by a factor m^(−1/2). Otherwise the factor is 1."""
        self._m, self._whole = blocks.bucket, blocks.whole
        self._last_m, self._lanes = (blocks.last.bucket, blocks.last.lanes) if blocks.last else (8, LANES)
        self._factors = [
            np.full(LANES, np.float64(m) ** -0.5 if unit else 1, dtype=kind) for m in (self._m, self._last_m)
        ]
        self._signs = np.empty(blocks.largest_bucket, dtype=np.uint32)
        self._rows = aligned_bytes(LANES * self._last_m * kind.itemsize).view(kind)

    def forward(self, x: np.ndarray, out: np.ndarray, key: int) -> None:
        """out = H·D·x of each bucket. x: (d,). out: (padded d,)."""
        self._turn(x, out, key, back=False)

    def back(self, y: np.ndarray, out: np.ndarray, key: int) -> None:
        """out = D·H·y of each bucket: y, (padded d,), is forward's. out: (d,)."""
        self._turn(y, out, key, back=True)

    def _turn(self, source: np.ndarray, target: np.ndarray, key: int, *, back: bool) -> None:
        _rotate(
            source, target, self._m, self._whole, self._last_m, self._lanes, key & 0xFFFFFFFF, key >> 32,
            *self._factors, self._signs, self._rows, back,
        )  # fmt: skip
