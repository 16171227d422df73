"""The CPU kernels of the affine codec, in numba. codecs/affine.py has the payload's layout."""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.aligned import aligned_bytes
from qafel_mpi.kernels.numba.jit import (
    bits_of,
    double_of,
    float_of,
    helper,
    jit,
    load32,
    load64,
    nearest,
    part,
    prefetch,
    store,
    umax32,
)
from qafel_mpi.kernels.numba.packing import add_levels, pack, unpack
from qafel_mpi.kernels.plan import shares, spread
from qafel_mpi.kernels.reference import DROP, LIFT, SEGMENT, TINY

_MAGNITUDE = np.int32(0x7FFFFFFF)
_INF_BITS = np.int32(0x7F800000)
_TINY, _LIFT, _FLOAT_MAX = np.float64(TINY), np.float64(LIFT), float(np.finfo(np.float32).max)
# (top code − zero) · scale stays below the largest float32 by this much, rounding included.
_LARGEST = _FLOAT_MAX * (1 - 2.0**-20)
_LARGE = _LARGEST / 255 / 2
_VALID = _FLOAT_MAX * (1 - 2.0**-21)  # _LARGEST, and what its own rounding may add
START, STOP, AT = 0, 1, 2  # columns of the tables: first element, end, first byte in the payload
GROUP = (
    1024  # elements whose ranges are taken before their codes are written; 2048 and 512 were slower at 11e6
)
TOGETHER = 64  # buckets that this can be


@helper
def _range(x):
    """Bit patterns of the (least, greatest) of x and 0, in float32: integers vectorise where float minima do not.

    Of negative numbers the least has the largest pattern, read as unsigned.
    """
    least, greatest = np.int32(0), np.int32(0)
    for i in range(x.size):
        pattern = bits_of(np.float32(x[i]))
        least, greatest = umax32(least, pattern), max(greatest, pattern)
    return min(least, np.int32(0)), greatest


@helper
def _grid(least, greatest, top):
    """(scale, zero) such that codes 0..top reach from least to greatest, and 0 is a grid point."""
    scale = (greatest - least) / top
    if scale == 0:
        return 1.0, 0.0
    zero = min(max(np.rint(-least / scale), 0.0), np.float64(top))
    if (
        scale > _LARGE
    ):  # below, no code reaches the limit, and a division less is worth having in small buckets
        scale = min(scale, _LARGEST / max(zero, top - zero))
    return scale, zero


@helper
def _lift(scale):
    return LIFT if scale < _TINY else np.float32(1)


@helper
def _copy_plain(x, payload, at):
    """x as float32 to payload[at:]. Returns the largest magnitude's bit pattern."""
    top = np.int32(0)
    for i in range(x.size):
        pattern = bits_of(np.float32(x[i]))
        store(payload, at + 4 * i, pattern)
        top = max(top, np.int32(pattern & _MAGNITUDE))
    return top


@helper
def _code(value, inverse, origin, top):
    y = nearest(np.float32(np.float32(value) * inverse))
    return min(max(np.int32(y + origin), np.int32(0)), top)


@helper
def _codes8(v, inverse, origin, out):
    for i in range(v.size):
        out[i] = np.uint8(_code(v[i], inverse, origin, np.int32(255)))


@helper
def _codes4(v, inverse, origin, out):
    top = np.int32(15)
    for p in range(v.size >> 1):
        even, odd = _code(v[2 * p], inverse, origin, top), _code(v[2 * p + 1], inverse, origin, top)
        out[p] = np.uint8(even | (odd << np.int32(4)))
    if v.size & 1:
        out[v.size >> 1] = np.uint8(_code(v[v.size - 1], inverse, origin, top))


@helper
def _codes(v, lift, inverse, origin, bits, levels, payload, codes_at):
    """Codes of any width, by way of levels."""
    top = np.int32((1 << bits) - 1)
    for first in range(0, v.size, SEGMENT):
        piece = part(v, first, min(first + SEGMENT, v.size))
        for i in range(piece.size):
            levels[i] = _code(np.float32(np.float32(piece[i]) * lift), inverse, origin, top)
        part(levels, piece.size, piece.size + 8)[:] = 0
        pack(levels, piece.size, bits, False, payload, codes_at + first * bits // 8)


@jit
def encode_range(x, wide, first, last, plain, bits, inverses, levels, payload):
    """What `plain` has, and buckets first..last-1 of `wide`. The first element of a tensor that is not finite, or -1.

    Ranges of some buckets, then their codes: a scale takes a chain of divisions, in which the processor would wait if
    there were not the next bucket to read. Of more than GROUP elements it finds the first no longer in the caches.
    """
    top = np.int32((1 << bits) - 1)
    for k in range(len(plain)):
        if _copy_plain(part(x, plain[k, START], plain[k, STOP]), payload, plain[k, AT]) >= _INF_BITS:
            return plain[k, START]
    origins_at = 8 * len(wide)
    while first < last:
        group, end = first, min(first + len(inverses), last)
        while first < end and (first == group or wide[first, STOP] - wide[group, START] <= GROUP):
            least, greatest = _range(part(x, wide[first, START], wide[first, STOP]))
            if greatest >= _INF_BITS or (least & _MAGNITUDE) >= _INF_BITS:
                return wide[first, START]
            scale, zero = _grid(np.float64(float_of(least)), np.float64(float_of(greatest)), top)
            store(payload, 8 * first, scale)
            store(payload, origins_at + 4 * first, np.int32(zero))
            inverses[first - group] = np.float32(1.0 / (scale * np.float64(_lift(scale))))
            first += 1
        prefetch(x, x.itemsize * wide[first - 1, STOP])
        for k in range(group, first):
            v = part(x, wide[k, START], wide[k, STOP])
            out = part(payload, wide[k, AT], wide[k, AT] + ((v.size * bits + 7) >> 3))
            lift = _lift(double_of(load64(payload, 8 * k)))
            inverse, origin = inverses[k - group], load32(payload, origins_at + 4 * k)
            if lift == 1 and bits == 8:
                _codes8(v, inverse, origin, out)
            elif lift == 1 and bits == 4:
                _codes4(v, inverse, origin, out)
            else:
                _codes(v, lift, inverse, origin, bits, levels, payload, wide[k, AT])
    return -1


@jit
def decode_range(payload, wide, first, last, plain, bits, weight, assign, levels, acc):
    """acc += weight · Q(x), or acc = Q(x), for what `plain` has and buckets first..last-1 of `wide`."""
    kind = acc.dtype.type
    for k in range(len(plain)):
        target, at = part(acc, plain[k, START], plain[k, STOP]), plain[k, AT]
        for i in range(target.size):
            value = kind(weight) * kind(float_of(load32(payload, at + 4 * i)))
            target[i] = value if assign else target[i] + value
    for k in range(first, last):
        scale, zero = double_of(load64(payload, 8 * k)), load32(payload, 8 * len(wide) + 4 * k)
        lift, drop = (_LIFT, DROP) if scale < _TINY else (1.0, np.float32(1))
        factor = kind(weight) * kind(scale * lift)
        for begin in range(wide[k, START], wide[k, STOP], SEGMENT):
            target = part(acc, begin, min(begin + SEGMENT, wide[k, STOP]))
            at = wide[k, AT] + (begin - wide[k, START]) * bits // 8
            unpack(payload, at, target.size, bits, False, levels)
            add_levels(levels, zero, factor, drop, assign, target)
    return -1


@jit
def valid(payload, wide, plain, bits):
    """Whether every scale, zero point and 1-D element is one that encode could have written."""
    top = np.int32((1 << bits) - 1)
    for k in range(len(wide)):
        scale, zero = double_of(load64(payload, 8 * k)), load32(payload, 8 * len(wide) + 4 * k)
        if not (scale > 0 and 0 <= zero <= top and scale * max(zero, top - zero) <= _VALID):
            return False
    for k in range(len(plain)):
        for i in range(plain[k, STOP] - plain[k, START]):
            if load32(payload, plain[k, AT] + 4 * i) & _MAGNITUDE >= _INF_BITS:
                return False
    return True


class AffineKernels:
    """One encoder and decoder for a layout. wide, plain: (tensors, 3) int64 tables of quantized and float tensors.

    Arrays as for cpu.BucketKernels. Threads share whole buckets: the first one has the float tensors too.
    """

    def __init__(self, wide: np.ndarray, plain: np.ndarray, *, bits: int, threads: int = 1):
        self.wide, self.plain, self.bits = wide, plain, bits
        self._shares = shares(np.cumsum(wide[:, STOP] - wide[:, START]), threads)
        self._plain = [plain, *(plain[:0] for _ in self._shares[1:])]
        self._levels = [aligned_bytes(SEGMENT + 8) for _ in self._shares]
        self._inverses = [np.empty(TOGETHER, dtype=np.float32) for _ in self._shares]

    def encode(self, x: np.ndarray, payload: np.ndarray) -> int:
        def call(i: int, first: int, last: int) -> int:
            return encode_range(
                x,
                self.wide,
                first,
                last,
                self._plain[i],
                self.bits,
                self._inverses[i],
                self._levels[i],
                payload,
            )

        return spread(call, self._shares)

    def decode(self, payload: np.ndarray, acc: np.ndarray, weight: float, *, assign: bool) -> None:
        def call(i: int, first: int, last: int) -> int:
            return decode_range(
                payload,
                self.wide,
                first,
                last,
                self._plain[i],
                self.bits,
                weight,
                assign,
                self._levels[i],
                acc,
            )

        spread(call, self._shares)

    def valid(self, payload: np.ndarray) -> bool:
        return valid(payload, self.wide, self.plain, self.bits)
