"""The CPU kernels of fp4, in numba: a segment at a time, in the cache. The bytes of reference_fp4.py."""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.aligned import aligned_bytes
from qafel_mpi.kernels.numba.buckets import top_of
from qafel_mpi.kernels.numba.jit import bits_of, float_of, helper, jit, load32, nearest, part, prefetch
from qafel_mpi.kernels.numba.packing import unpack
from qafel_mpi.kernels.numba.rounding import draw
from qafel_mpi.kernels.plan import shares, spread
from qafel_mpi.kernels.reference import SEGMENT
from qafel_mpi.kernels.reference_fp4 import (
    BLOCK,
    HEAD,
    LARGEST_E4M3,
    LARGEST_E8M0,
    LARGEST_UNIT,
    LEAST,
    MX,
    RANGE,
)

_MAGNITUDE, _INF_BITS = np.int32(0x7FFFFFFF), np.int32(0x7F800000)
_SIX, _ONE, _HALF = np.float32(6), np.float32(1), np.float32(0.5)
_FIXED = np.float32(2.0**17)
_SMALL, _STEPS = np.float32(2.0**-6), np.float32(512)
# Scratch of one thread, in bytes: hashes of a segment's draws, its values, its codes.
_VALUES_AT = 2 * SEGMENT
_CODES_AT = _VALUES_AT + 4 * SEGMENT
_SCRATCH_BYTES = _CODES_AT + SEGMENT


@helper
def _e8m0(top, near):
    up = np.int32(0) if near or (top & np.int32(0x7FFFFF)) <= np.int32(0x400000) else np.int32(1)
    return min(max((top >> 23) - 2 + up, 0), LARGEST_E8M0)


@helper
def _e4m3(s, near):
    if s < _SMALL:
        t = np.float32(s * _STEPS)
        code = np.int32(np.rint(t) if near else np.ceil(t))
    else:
        pattern = bits_of(s)
        add = 0x7FFFF + ((pattern >> 20) & 1) if near else 0xFFFFF
        code = np.int32(((pattern + add) >> 20) - 960)
    return min(code, np.int32(LARGEST_E4M3))


@helper
def _value_of_e4m3(code):
    if code < 8:
        return np.float32(code) * np.float32(2.0**-9)
    return np.float32(8 + (code & 7)) * float_of(np.int32(((code >> 3) + 117) << 23))


@helper
def _half_of(code, kind, unit):
    """Half of what a scale stands for."""
    if kind == MX:
        return float_of(np.int32((code - 1) << 23) if code > 1 else np.int32(0x200000 << code))
    return np.float32(np.float32(_value_of_e4m3(code) * unit) * _HALF)


@helper
def _scaled(x, inverse, out):
    """out = min(|x| · inverse, 6) with the sign of x."""
    for i in range(out.size):
        v = np.float32(x[i])
        y = min(np.float32(abs(v) * inverse), _SIX)
        out[i] = float_of(bits_of(y) | (bits_of(v) & ~_MAGNITUDE))


@helper
def _scaled_block(x, at, inverse, out, size):
    """_scaled of a whole block: `size` is a constant where this is compiled into its caller."""
    for j in range(size):
        v = np.float32(x[at + j])
        y = min(np.float32(abs(v) * inverse), _SIX)
        out[at + j] = float_of(bits_of(y) | (bits_of(v) & ~_MAGNITUDE))


@helper
def _top_block(x, at, size):
    top = np.int32(0)
    for j in range(size):
        top = max(top, np.int32(bits_of(np.float32(x[at + j])) & _MAGNITUDE))
    return top


@helper
def _stochastic(values, draws, codes):
    for i in range(values.size):
        pattern = bits_of(values[i])
        n = nearest(np.float32(float_of(pattern & _MAGNITUDE) * _FIXED))
        more = np.int32(n >= np.int32(1 << 18)) + np.int32(n >= np.int32(1 << 19))
        k = ((n + (np.int32(draws[i]) << more)) >> (np.int32(16) + more)) + np.int32(2) * more
        codes[i] = np.uint8(k | ((pattern >> 28) & np.int32(8)))


@helper
def _nearest(values, codes):
    for i in range(values.size):
        pattern = bits_of(values[i])
        y = float_of(pattern & _MAGNITUDE)
        k = np.int32(y > np.float32(0.25)) + np.int32(y >= np.float32(0.75)) + np.int32(y > np.float32(1.25))
        k += np.int32(y >= np.float32(1.75)) + np.int32(y > np.float32(2.5)) + np.int32(y >= np.float32(3.5))
        k += np.int32(y > np.float32(5))
        codes[i] = np.uint8(k | ((pattern >> 28) & np.int32(8)))


@helper
def _pack(codes, out):
    for p in range(out.size):
        out[p] = np.uint8(codes[2 * p] | np.uint8(codes[2 * p + 1] << np.uint8(4)))


@jit
def largest(x):
    """The largest magnitude's bit pattern, of x rounded to float32."""
    top = np.int32(0)
    for first in range(0, x.size, SEGMENT):
        top = max(top, top_of(part(x, first, min(first + SEGMENT, x.size))))
    return top


@helper
def _scale(top, kind, near, unit, payload, at):
    """Writes a block's scale. Returns its inverse."""
    if kind == MX:
        code = _e8m0(top, near)
        payload[at] = np.uint8(code)
        return float_of(np.int32((254 - code) << 23))
    if unit == 0:
        payload[at] = 0
        return np.float32(0)
    code = _e4m3(np.float32(np.float32(float_of(top) / _SIX) / unit), near)
    payload[at] = np.uint8(code)
    return np.float32(_ONE / np.float32(_value_of_e4m3(code) * unit)) if code > 0 else np.float32(0)


@jit
def encode_range(x, first, last, kind, block, near, unit, k0, k1, scratch, payload, scales_at, codes_at):
    """Scales and codes of segments first..last-1. A segment that is not finite, or -1."""
    hashes, draws = scratch[:_VALUES_AT].view(np.uint32), scratch[:_VALUES_AT].view(np.uint16)
    values = scratch[_VALUES_AT:_CODES_AT].view(np.float32)
    for g in range(first, last):
        begin = g * SEGMENT
        here = part(x, begin, min(begin + SEGMENT, x.size))
        size, at = here.size, scales_at + begin // block
        prefetch(x, x.itemsize * (begin + SEGMENT))
        whole = size // block
        for b in range(whole):
            top = _top_block(here, 32 * b, 32) if block == 32 else _top_block(here, 16 * b, 16)
            if top >= _INF_BITS:
                return g
            inverse = _scale(top, kind, near, unit, payload, at + b)
            if block == 32:
                _scaled_block(here, 32 * b, inverse, values, 32)
            else:
                _scaled_block(here, 16 * b, inverse, values, 16)
        if whole * block < size:
            rest = part(here, whole * block, size)
            top = top_of(rest)
            if top >= _INF_BITS:
                return g
            inverse = _scale(top, kind, near, unit, payload, at + whole)
            _scaled(rest, inverse, part(values, whole * block, size))
        codes = part(scratch, _CODES_AT, _CODES_AT + SEGMENT)
        if size & 1:
            codes[size] = 0
        if near:
            _nearest(part(values, 0, size), codes)
        else:
            draw(k0, k1, begin, size, hashes)
            _stochastic(part(values, 0, size), draws, codes)
        out = codes_at + begin // 2
        _pack(codes, part(payload, out, out + (size + 1) // 2))
    return -1


@helper
def _levels(levels):
    """Codes become twice their values: 0, 1, 2, 3, 4, 6, 8, 12 with signs."""
    for i in range(levels.size):
        code = levels[i]
        k = np.int8(code & np.int8(7))
        value = np.int8(k + max(np.int8(k - np.int8(4)), np.int8(0)))
        value = np.int8(12) if k == np.int8(7) else value
        levels[i] = np.int8(-value) if code > np.int8(7) else value


@helper
def _add_block(levels, at, factor, assign, acc, size):
    if assign:
        for j in range(size):
            acc[at + j] = acc.dtype.type(levels[at + j]) * factor
    else:
        for j in range(size):
            acc[at + j] += acc.dtype.type(levels[at + j]) * factor


@jit
def decode_range(payload, first, last, kind, block, unit, weight, assign, levels, scales_at, codes_at, acc):
    """acc += weight · Q(x), or acc = Q(x), for segments first..last-1."""
    of = acc.dtype.type
    for g in range(first, last):
        begin = g * SEGMENT
        here = part(acc, begin, min(begin + SEGMENT, acc.size))
        size, at, codes = here.size, scales_at + begin // block, codes_at + begin // 2
        prefetch(acc, acc.itemsize * (begin + SEGMENT))
        unpack(payload, codes, size, 4, False, levels)
        _levels(part(levels, 0, size))
        for b in range((size + block - 1) // block):
            factor = of(weight) * of(_half_of(np.int32(payload[at + b]), kind, unit))
            left = size - b * block
            if left >= block and block == 32:
                _add_block(levels, 32 * b, factor, assign, here, 32)
            elif left >= block:
                _add_block(levels, 16 * b, factor, assign, here, 16)
            else:
                _add_block(levels, block * b, factor, assign, here, left)
    return -1


@jit
def scales_valid(payload, blocks, kind):
    """Whether the scales are such as an encoder writes."""
    top = np.uint8(0)
    begin = 0
    if kind == MX:
        most = np.uint8(LARGEST_E8M0)
    else:
        most, begin = np.uint8(LARGEST_E4M3), 4
        pattern = load32(payload, 0)
        if pattern < 0 or pattern > bits_of(LARGEST_UNIT):
            return False
    scales = part(payload, begin, begin + blocks)
    for k in range(blocks):
        top = max(top, scales[k])
    return top <= most


class Fp4Kernels:
    """Encode and decode vectors of d elements. kind: MX or NV. nearest: or stochastic. Owns its scratch.

    x, acc: (d,) numpy arrays, float32 or float64. payload: uint8. encode returns the number of a segment with an
    element that is not finite (in float32), or -1.
    """

    def __init__(self, d: int, *, kind: int, nearest: bool, threads: int = 1):
        self.kind, self.nearest, self.block = kind, nearest, BLOCK[kind]
        self.blocks = -(-d // self.block)
        self.scales_at, self.codes_at = HEAD[kind], HEAD[kind] + self.blocks
        ends = np.minimum(np.arange(SEGMENT, d + SEGMENT, SEGMENT), d)
        self._shares = shares(ends, threads)
        self._scratch = [aligned_bytes(_SCRATCH_BYTES) for _ in self._shares]
        self._levels = [aligned_bytes(SEGMENT + 8).view(np.int8) for _ in self._shares]

    def encode(self, x: np.ndarray, payload: np.ndarray, key: int) -> int:
        unit = np.float32(1)
        if self.kind != MX:
            top = np.int32(largest(x))
            if top >= _INF_BITS:
                return 0
            most = top.view(np.float32)
            unit = np.float32(0) if most < LEAST else min(np.float32(most / RANGE), LARGEST_UNIT)
            payload[:4] = np.frombuffer(np.float32(unit).tobytes(), dtype=np.uint8)
        k0, k1 = key & 0xFFFFFFFF, key >> 32

        def call(i: int, first: int, last: int) -> int:
            return int(
                encode_range(
                    x, first, last, self.kind, self.block, self.nearest, unit, k0, k1, self._scratch[i], payload,
                    self.scales_at, self.codes_at,
                )
            )  # fmt: skip

        return spread(call, self._shares)

    def decode(self, payload: np.ndarray, acc: np.ndarray, weight: float, *, assign: bool) -> None:
        """acc += weight · Q(x), or acc = Q(x)."""
        unit = np.float32(1) if self.kind == MX else np.frombuffer(payload[:4].tobytes(), dtype="<f4")[0]

        def call(i: int, first: int, last: int) -> int:
            return int(
                decode_range(
                    payload, first, last, self.kind, self.block, unit, weight, assign, self._levels[i],
                    self.scales_at, self.codes_at, acc,
                )
            )  # fmt: skip

        spread(call, self._shares)

    def valid(self, payload: np.ndarray) -> bool:
        """Whether the scales are such as an encoder writes."""
        return bool(scales_valid(payload, self.blocks, self.kind))
