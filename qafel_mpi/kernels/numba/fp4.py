"""The CPU kernels of fp4, in numba: a segment at a time, in the cache. The bytes of reference_fp4.py."""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.aligned import aligned_bytes
from qafel_mpi.kernels.blocks import LANES
from qafel_mpi.kernels.numba import fp4_lanes as simd
from qafel_mpi.kernels.numba.buckets import top_of
from qafel_mpi.kernels.numba.fp4_lanes import PAIRS
from qafel_mpi.kernels.numba.jit import bits_of, float_of, helper, jit, load32, part, prefetch
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

_INF_BITS = np.int32(0x7F800000)
_SIX, _ONE, _HALF = np.float32(6), np.float32(1), np.float32(0.5)
_SMALL, _STEPS = np.float32(2.0**-6), np.float32(512)
# Scratch of one thread, in bytes: hashes of a segment's draws, its largest magnitudes and inverse scales, each of 16
# elements, and what is left over of its last 32 elements, with their codes.
_TOPS_AT = 2 * SEGMENT
_INVERSES_AT = _TOPS_AT + 4 * (SEGMENT // LANES)
_REST_AT = _INVERSES_AT + 4 * (SEGMENT // LANES)
_REST_CODES_AT = _REST_AT + 4 * PAIRS
_SCRATCH_BYTES = _REST_CODES_AT + LANES
_ROOM = SEGMENT // LANES + PAIRS  # of a decoder: factors, and what is left over


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


@jit
def largest(x):
    """The largest magnitude's bit pattern, of x rounded to float32."""
    top = np.int32(0)
    for first in range(0, x.size, SEGMENT):
        top = max(top, top_of(part(x, first, min(first + SEGMENT, x.size))))
    return top


@helper
def _scale(top, kind, near, unit):
    """(code, inverse) of a block's scale."""
    if kind == MX:
        code = _e8m0(top, near)
        return code, float_of(np.int32((254 - code) << 23))
    if unit == 0:
        return np.int32(0), np.float32(0)
    code = _e4m3(np.float32(np.float32(float_of(top) / _SIX) / unit), near)
    return code, np.float32(_ONE / np.float32(_value_of_e4m3(code) * unit)) if code > 0 else np.float32(0)


@helper
def _scales(tops, blocks, block, kind, near, unit, out, inverses):
    """Scales to `out`, and their inverses, one for 16 elements, as the tops are. Returns the largest top."""
    largest = np.int32(0)
    for k in range(blocks):
        top = max(tops[2 * k], tops[2 * k + 1]) if block == PAIRS else tops[k]
        largest = max(largest, top)
        code, inverse = _scale(top, kind, near, unit)
        out[k] = np.uint8(code)
        if block == PAIRS:
            inverses[2 * k] = inverse
            inverses[2 * k + 1] = inverse
        else:
            inverses[k] = inverse
    return largest


@helper
def _codes(x, pairs, inverses, first, near, hashes, out, out_at):
    """Codes of `pairs` times 32 elements of x. first: pair of inverses, and of hashes, sixteen of them each."""
    if near:
        for k in range(pairs):
            simd.codes_nearest(
                x, PAIRS * k, inverses, first + k, hashes, LANES * (first + k), out, out_at + LANES * k
            )
    else:
        for k in range(pairs):
            simd.codes_stochastic(
                x, PAIRS * k, inverses, first + k, hashes, LANES * (first + k), out, out_at + LANES * k
            )


@jit
def encode_range(x, first, last, kind, block, near, unit, k0, k1, scratch, payload, scales_at, codes_at):
    """Scales and codes of segments first..last-1. A segment that is not finite, or -1."""
    hashes = part(scratch, 0, _TOPS_AT).view(np.uint32)
    tops = part(scratch, _TOPS_AT, _INVERSES_AT).view(np.int32)
    inverses = part(scratch, _INVERSES_AT, _REST_AT).view(np.float32)
    rest = part(scratch, _REST_AT, _REST_CODES_AT).view(np.float32)
    for g in range(first, last):
        begin = g * SEGMENT
        here = part(x, begin, min(begin + SEGMENT, x.size))
        size, at, out = here.size, scales_at + begin // block, codes_at + begin // 2
        prefetch(x, x.itemsize * (begin + SEGMENT))
        whole = size // PAIRS
        for k in range(whole):
            simd.tops(here, PAIRS * k, tops, k)
        if whole * PAIRS < size:
            rest[:] = 0
            for i in range(size - whole * PAIRS):
                rest[i] = np.float32(here[whole * PAIRS + i])
            simd.tops(rest, 0, tops, whole)
            inverses[2 * whole + 1] = 0  # of a block that there is not
        blocks = (size + block - 1) // block
        top = _scales(tops, blocks, block, kind, near, unit, part(payload, at, at + blocks), inverses)
        if top >= _INF_BITS:
            return g
        if not near:
            draw(k0, k1, begin, size, hashes)
        _codes(here, whole, inverses, 0, near, hashes, payload, out)
        if whole * PAIRS < size:
            _codes(rest, 1, inverses, whole, near, hashes, scratch, _REST_CODES_AT)
            for i in range((size - whole * PAIRS + 1) // 2):
                payload[out + LANES * whole + i] = scratch[_REST_CODES_AT + i]
    return -1


@helper
def _add(codes, codes_at, pairs, factors, first, assign, acc):
    if assign:
        for k in range(pairs):
            simd.assign(codes, codes_at + LANES * k, factors, first + k, acc, PAIRS * k)
    else:
        for k in range(pairs):
            simd.add(codes, codes_at + LANES * k, factors, first + k, acc, PAIRS * k)


@jit
def decode_range(
    payload, first, last, kind, block, unit, weight, assign, room, scratch, scales_at, codes_at, acc
):
    """acc += weight · Q(x), or acc = Q(x), for segments first..last-1. room: _ROOM elements of acc's type."""
    of = acc.dtype.type
    factors, rest = part(room, 0, SEGMENT // LANES), part(room, SEGMENT // LANES, _ROOM)
    for g in range(first, last):
        begin = g * SEGMENT
        here = part(acc, begin, min(begin + SEGMENT, acc.size))
        size, at, codes = here.size, scales_at + begin // block, codes_at + begin // 2
        prefetch(acc, acc.itemsize * (begin + SEGMENT))
        for k in range((size + block - 1) // block):
            factor = of(weight) * of(_half_of(np.int32(payload[at + k]), kind, unit))
            if block == PAIRS:
                factors[2 * k] = factor
                factors[2 * k + 1] = factor
            else:
                factors[k] = factor
        whole = size // PAIRS
        _add(payload, codes, whole, factors, 0, assign, here)
        left = size - whole * PAIRS
        if left:
            if left <= LANES:
                factors[2 * whole + 1] = 0
            for i in range(left):
                rest[i] = here[whole * PAIRS + i]
            for i in range((left + 1) // 2):
                scratch[i] = payload[codes + LANES * whole + i]
            _add(scratch, 0, 1, factors, whole, assign, rest)
            for i in range(left):
                here[whole * PAIRS + i] = rest[i]
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
        self._rooms: dict[np.dtype, list[np.ndarray]] = {}

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

        if acc.dtype not in self._rooms:
            rooms = [aligned_bytes(_ROOM * acc.itemsize).view(acc.dtype) for _ in self._shares]
            self._rooms[acc.dtype] = rooms
        rooms = self._rooms[acc.dtype]

        def call(i: int, first: int, last: int) -> int:
            return int(
                decode_range(
                    payload, first, last, self.kind, self.block, unit, weight, assign, rooms[i], self._scratch[i],
                    self.scales_at, self.codes_at, acc,
                )
            )  # fmt: skip

        spread(call, self._shares)

    def valid(self, payload: np.ndarray) -> bool:
        """Whether the scales are such as an encoder writes."""
        return bool(scales_valid(payload, self.blocks, self.kind))
