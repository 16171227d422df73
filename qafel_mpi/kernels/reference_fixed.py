"""The fixed codec as plain numpy formulas: the definition of what kernels/numba/fixed.py computes."""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.reference import pack, uniform16, unpack


def encode_fixed(x: np.ndarray, *, spacing: float, bits: int, key: int) -> bytes:
    """The payload: how many elements were clipped, then the codes. x: (d,), finite in float32."""
    limit = np.float32((2 ** (bits - 1) - 1) * 65536)
    with np.errstate(over="ignore"):
        y = x.astype(np.float32) * np.float32(65536 / spacing)
    levels = (np.rint(y.clip(-limit, limit)).astype(np.int32) + uniform16(key, np.arange(len(x)))) >> 16
    return np.array([(np.abs(y) > limit).sum()], dtype="<u4").tobytes() + pack(levels, bits).tobytes()


def levels_of_fixed(payload: np.ndarray, d: int, bits: int) -> np.ndarray:
    """(d,) int32: what a server adds up. payload: uint8."""
    half = 1 << (bits - 1)
    return (unpack(payload[4:], d, bits).astype(np.int32) ^ half) - half
