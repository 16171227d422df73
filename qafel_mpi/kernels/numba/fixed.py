"""The CPU kernels of fixed: whole numbers of one spacing, rounded, packed, and added up as whole numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qafel_mpi.kernels.aligned import aligned_bytes
from qafel_mpi.kernels.numba.buckets import INF_BITS, TOGETHER, ZERO, take
from qafel_mpi.kernels.numba.jit import helper, jit, nearest, part, prefetch
from qafel_mpi.kernels.numba.packing import add_levels, pack, unpack
from qafel_mpi.kernels.numba.rounding import draw
from qafel_mpi.kernels.plan import segment_ends, shares, spread
from qafel_mpi.kernels.reference import SEGMENT

CODES_AT = 4  # behind the number of elements that were clipped, uint32
_ONE = np.float32(1)
_AHEAD = 64 // np.dtype(np.int16).itemsize  # elements of a cache line of sums


@helper
def _round(v, inverse, limit, draws, levels):
    """levels = v · inverse / 2^16, stochastically rounded, held to ±limit/2^16. Returns how many were held."""
    clipped = np.int32(0)
    for i in range(v.size):
        y = np.float32(v[i] * inverse)
        clipped += np.int32(abs(y) > limit)
        y = limit if y > limit else y
        y = -limit if y < -limit else y
        levels[i] = np.int32(nearest(y) + np.int32(draws[i])) >> np.int32(16)
    return clipped


@jit
def encode_range(x, first, last, inverse, s, bits, k0, k1, scratch, values, levels, payload, clipped):
    """Codes of segments first..last-1, and in clipped[segment] how many were held. A non-finite segment, or -1."""
    hashes, draws = scratch.view(np.uint32), scratch.view(np.uint16)
    limit = np.float32(s * 65536)
    for g in range(first, last):
        begin, end = g * SEGMENT, min((g + 1) * SEGMENT, x.size)
        v = part(values, 0, end - begin)
        if take(part(x, begin, end), v) >= INF_BITS:
            return g
        prefetch(x, x.itemsize * end)
        draw(k0, k1, begin, v.size, hashes)
        clipped[g] = _round(v, inverse, limit, draws, levels)
        part(levels, v.size, v.size + 8)[:] = 0
        pack(levels, v.size, bits, True, payload, CODES_AT + begin * bits // 8)
    return -1


@jit
def decode_range(payload, first, last, bits, factor, assign, levels, acc):
    """acc += level · factor[0], or acc = that, for segments first..last-1."""
    for g in range(first, last):
        target = part(acc, g * SEGMENT, min((g + 1) * SEGMENT, acc.size))
        unpack(payload, CODES_AT + g * SEGMENT * bits // 8, target.size, bits, True, levels)
        add_levels(levels, ZERO, factor[0], _ONE, assign, target)
    return -1


@helper
def _add(payload, weight, g, bits, levels, target):
    unpack(payload, CODES_AT + g * SEGMENT * bits // 8, target.size, bits, True, levels)
    if weight == 1:
        for k in range(target.size):
            target[k] += np.int16(levels[k])
    else:
        for k in range(target.size):
            target[k] += np.int16(weight) * np.int16(levels[k])


@jit
def add_range(payloads, weights, count, first, last, bits, levels, sums):
    """sums += Σ weight · level of the first `count` payloads, whole numbers: segments first..last-1."""
    for g in range(first, last):
        target = part(sums, g * SEGMENT, min((g + 1) * SEGMENT, sums.size))
        for i in range(count):
            _add(payloads[i], weights[i], g, bits, levels, target)
    return -1


@jit
def add_one_range(payload, weight, first, last, bits, levels, sums):
    """add_range of one payload: a tuple takes longer on its way than a short vector."""
    for g in range(first, last):
        _add(payload, weight, g, bits, levels, part(sums, g * SEGMENT, min((g + 1) * SEGMENT, sums.size)))
    return -1


@jit
def scale_range(sums, first, last, factor, out):
    """out = sums · factor[0], for segments first..last-1."""
    for g in range(first, last):
        source = part(sums, g * SEGMENT, min((g + 1) * SEGMENT, sums.size))
        target = part(out, g * SEGMENT, min((g + 1) * SEGMENT, sums.size))
        for k in range(source.size):
            target[k] = out.dtype.type(source[k]) * factor[0]
    return -1


class FixedKernels:
    """Encode, decode and add up vectors of d elements. Owns its scratch.

    spacing: of the levels. bits: of a code, 2 to 8; levels go to ±(2^(bits − 1) − 1). x, acc: (d,) float32 or
    float64. payload: uint8. sums: (d,) int16.
    """

    def __init__(self, d: int, *, spacing: float, bits: int, threads: int = 1):
        self.spacing, self.bits, self.s = spacing, bits, 2 ** (bits - 1) - 1
        self._inverse = np.float32(65536 / spacing)
        ends = segment_ends(d)
        self._shares = shares(ends, threads)
        self._clipped = np.zeros(len(ends), dtype=np.int64)
        self._draws = [aligned_bytes(2 * SEGMENT) for _ in self._shares]
        self._values = [aligned_bytes(4 * SEGMENT).view(np.float32) for _ in self._shares]
        self._levels = [aligned_bytes(SEGMENT + 8).view(np.int8) for _ in self._shares]

    def encode(self, x: np.ndarray, payload: np.ndarray, key: int) -> int:
        """The payload of x. Returns the number of a segment with an element that is not finite in float32, or -1."""

        def call(i: int, first: int, last: int) -> int:
            return int(
                encode_range(
                    x, first, last, self._inverse, self.s, self.bits, key & 0xFFFFFFFF, key >> 32, self._draws[i],
                    self._values[i], self._levels[i], payload, self._clipped,
                )
            )  # fmt: skip

        bad = spread(call, self._shares)
        if bad < 0:
            payload[:CODES_AT] = np.array([self._clipped.sum()], dtype="<u4").view(np.uint8)
        return bad

    def decode(self, payload: np.ndarray, acc: np.ndarray, weight: float, *, assign: bool) -> None:
        """acc += weight · Q(x), or acc = Q(x)."""
        factor = np.array([weight * self.spacing], dtype=acc.dtype)

        def call(i: int, first: int, last: int) -> int:
            return int(decode_range(payload, first, last, self.bits, factor, assign, self._levels[i], acc))

        spread(call, self._shares)

    def add(self, payloads: Sequence[np.ndarray], weights: Sequence[int], sums: np.ndarray) -> None:
        """sums += Σ weight · level. Reads the sums once for TOGETHER payloads."""
        if len(payloads) == 1:
            self._add_one(payloads[0], weights[0], sums)
            return
        for at in range(0, len(payloads), TOGETHER):
            self._add(payloads[at : at + TOGETHER], weights[at : at + TOGETHER], sums)

    def _add_one(self, payload: np.ndarray, weight: int, sums: np.ndarray) -> None:
        def call(i: int, first: int, last: int) -> int:
            return int(add_one_range(payload, weight, first, last, self.bits, self._levels[i], sums))

        spread(call, self._shares)

    def _add(self, some: Sequence[np.ndarray], weights: Sequence[int], sums: np.ndarray) -> None:
        count = len(some)
        missing = TOGETHER - count  # the kernel is compiled for one length of tuple
        payloads, factors = (*some, *(some[0],) * missing), (*weights, *(1,) * missing)

        def call(i: int, first: int, last: int) -> int:
            return int(add_range(payloads, factors, count, first, last, self.bits, self._levels[i], sums))

        spread(call, self._shares)

    def scale(self, sums: np.ndarray, out: np.ndarray) -> None:
        """out = spacing · sums."""
        factor = np.array([self.spacing], dtype=out.dtype)
        spread(lambda _, first, last: int(scale_range(sums, first, last, factor, out)), self._shares)
