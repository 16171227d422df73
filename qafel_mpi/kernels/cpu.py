"""The CPU kernels, in numba: no compiler is needed, and the bytes are those of reference.py.

A vector is cut into segments: a bucket of up to SEGMENT elements is one, a longer one is several. A segment
lies in the cache while its scale is found and its codes are written. Segments are independent given their
bucket's scale, so any number of threads gives the same bytes. All functions work in place.

What makes numba's loops fast here: the maximum runs over the float's bit pattern as int32 (a float maximum
does not vectorise), buckets are slices indexed from zero, 2, 4 and 8 bits have loops of their own, and clamp
and round work on values that the compiler knows to be independent.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit

from qafel_mpi.kernels.reference import DROP, LIFT, MIX1, MIX2, SEGMENT, TINY, WEYL, slot_starts

_W, _M1, _M2 = np.uint32(WEYL), np.uint32(MIX1), np.uint32(MIX2)
_MAX_BITS = np.int32(0x7FFFFFFF)
_INF_BITS = np.int32(0x7F800000)
_FLOAT_MAX = float(np.finfo(np.float32).max)
_ONE = np.float32(1)
LINF, L2, MEAN = 0, 1, 2  # what the scale of a bucket is: maximum, 2-norm, mean magnitude
GROUP = 64  # segments a thread takes at least; fewer are not worth a thread


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    return njit(cache=True, nogil=True, boundscheck=False)(function)


@dataclass(frozen=True, eq=False)
class Plan:
    """How a vector is cut. The last entry of the three segment tables closes the last segment."""

    elements: int
    buckets: int
    starts: np.ndarray  # int64, segments + 1: first element
    slots: np.ndarray  # int64, segments: first slot, a multiple of 8
    bucket: np.ndarray  # int64, segments + 1: which bucket
    single: bool  # every bucket is one segment
    code_bytes: Callable[[int], int]  # bits -> bytes of the code region

    @property
    def segments(self) -> int:
        return len(self.slots)


def plan(bucket_starts: np.ndarray) -> Plan:
    """bucket_starts: (buckets + 1,) int64, ascending, from 0 to d."""
    first_slot = slot_starts(bucket_starts)
    lengths = np.diff(bucket_starts)
    pieces = -(-lengths // SEGMENT)
    bucket = np.repeat(np.arange(len(lengths)), pieces)
    within = np.arange(len(bucket)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.append(bucket_starts[bucket] + within * SEGMENT, bucket_starts[-1])
    last = int(first_slot[-2] + lengths[-1])
    return Plan(
        elements=int(bucket_starts[-1]),
        buckets=len(lengths),
        starts=starts.astype(np.int64),
        slots=(first_slot[bucket] + within * SEGMENT).astype(np.int64),
        bucket=np.append(bucket, len(lengths)).astype(np.int64),
        single=bool((pieces == 1).all()),
        code_bytes=lambda bits: -(-last * bits // 8),
    )


@jit
def _hash(k0, k1, j):
    h = np.uint32(k0 + np.uint32(j) * _W)
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(h * _M1)
    h = np.uint32(h ^ k1)
    h = np.uint32(h ^ (h >> np.uint32(15)))
    h = np.uint32(h * _M2)
    return np.uint32(h ^ (h >> np.uint32(16)))


@jit
def _magnitude(x, kind):
    """(partial scale as float64, largest bit pattern) of one segment."""
    pattern = x.view(np.int32)
    top = np.int32(0)
    for i in range(x.size):
        top = max(top, pattern[i] & _MAX_BITS)
    if kind == LINF:
        return 0.0, top
    total = 0.0
    if kind == MEAN:
        for i in range(x.size):
            total += abs(np.float64(x[i]))
        return total, top
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = 0.0
    n = x.size // 8 * 8
    for i in range(0, n, 8):
        a0 += np.float64(x[i]) * np.float64(x[i])
        a1 += np.float64(x[i + 1]) * np.float64(x[i + 1])
        a2 += np.float64(x[i + 2]) * np.float64(x[i + 2])
        a3 += np.float64(x[i + 3]) * np.float64(x[i + 3])
        a4 += np.float64(x[i + 4]) * np.float64(x[i + 4])
        a5 += np.float64(x[i + 5]) * np.float64(x[i + 5])
        a6 += np.float64(x[i + 6]) * np.float64(x[i + 6])
        a7 += np.float64(x[i + 7]) * np.float64(x[i + 7])
    lanes = (a0, a1, a2, a3, a4, a5, a6, a7)
    for lane in range(8):
        part = lanes[lane]
        if n + lane < x.size:
            part += np.float64(x[n + lane]) * np.float64(x[n + lane])
        total += part
    return total, top


@jit
def _finish_scale(total, top, count, kind, cell):
    if kind == LINF:
        cell[0] = top
        return cell.view(np.float32)[0]
    value = np.sqrt(total) if kind == L2 else total / count
    return np.float32(min(value, _FLOAT_MAX))


@jit
def _inverse(scale, s):
    """(lift, inv): s·65536/scale, with the lift that keeps it finite; (0, 0) for a bucket of zeros."""
    if scale == 0:
        return np.float32(0), np.float32(0)
    lift = LIFT if scale < TINY else _ONE
    return lift, np.float32(np.float32(s * 65536) / np.float32(scale * lift))


@jit
def _unit(scale, s):
    """(unit, drop): a level's value is level · unit · drop."""
    if scale < TINY:
        return np.float32(np.float32(scale * LIFT) / np.float32(s)), DROP
    return np.float32(scale / np.float32(s)), _ONE


@jit
def _y(v, lift, inv, limit):
    y = np.float32(np.float32(v * lift) * inv)
    y = limit if y > limit else y
    y = -limit if y < -limit else y
    return np.int32(np.rint(y))


@jit
def _low(h):
    return np.int32(h & np.uint32(0xFFFF))


@jit
def _high(h):
    return np.int32(h >> np.uint32(16))


@jit
def _code(v, lift, inv, limit, draw, bits):
    y = _y(v, lift, inv, limit)
    if bits == 1:
        return np.uint32(1) if 2 * draw + 1 > y + 65536 else np.uint32(0)
    return np.uint32(np.int32(y + draw) >> 16) & np.uint32((1 << bits) - 1)


@jit
def _encode_segment(x, lift, inv, s, bits, k0, k1, slot, out):
    """Codes of one segment into out, which begins at the segment's first byte."""
    limit = np.float32(s * 65536)
    j = np.uint32(slot >> 1)
    n = x.size
    done = 0
    if bits == 4:
        for p in range(n // 2):
            h = _hash(k0, k1, np.uint32(j + np.uint32(p)))
            a = (_y(x[2 * p], lift, inv, limit) + _low(h)) >> 16
            b = (_y(x[2 * p + 1], lift, inv, limit) + _high(h)) >> 16
            out[p] = np.uint8((a & 15) | ((b & 15) << 4))
        done = n // 2 * 2
    elif bits == 8:
        for p in range(n // 2):
            h = _hash(k0, k1, np.uint32(j + np.uint32(p)))
            out[2 * p] = np.uint8((_y(x[2 * p], lift, inv, limit) + _low(h)) >> 16)
            out[2 * p + 1] = np.uint8((_y(x[2 * p + 1], lift, inv, limit) + _high(h)) >> 16)
        done = n // 2 * 2
    elif bits == 2:
        for p in range(n // 4):
            h = _hash(k0, k1, np.uint32(j + np.uint32(2 * p)))
            g = _hash(k0, k1, np.uint32(j + np.uint32(2 * p + 1)))
            a = (_y(x[4 * p], lift, inv, limit) + _low(h)) >> 16
            b = (_y(x[4 * p + 1], lift, inv, limit) + _high(h)) >> 16
            c = (_y(x[4 * p + 2], lift, inv, limit) + _low(g)) >> 16
            d = (_y(x[4 * p + 3], lift, inv, limit) + _high(g)) >> 16
            out[p] = np.uint8((a & 3) | ((b & 3) << 2) | ((c & 3) << 4) | ((d & 3) << 6))
        done = n // 4 * 4
    word = np.uint64(0)
    held = 0
    at = done * bits // 8
    for i in range(done, n):
        h = _hash(k0, k1, np.uint32(j + np.uint32(i >> 1)))
        draw = _high(h) if i & 1 else _low(h)
        code = _code(x[i], lift, inv, limit, draw, bits)
        word |= np.uint64(code) << np.uint64(held)
        held += bits
        while held >= 8:
            out[at] = np.uint8(word & np.uint64(255))
            word >>= np.uint64(8)
            held -= 8
            at += 1
    if held:
        out[at] = np.uint8(word & np.uint64(255))


@jit
def _add(acc, i, level, unit, drop, weight, assign):
    value = np.float32(np.float32(np.float32(level) * unit) * drop)
    if assign:
        acc[i] = value
    else:
        acc[i] += weight * value


@jit
def _decode_segment(codes, bits, unit, drop, weight, assign, acc):
    """acc += weight · value (assign: acc = value) for one segment; codes begin at its first byte."""
    n = acc.size
    done = 0
    if bits == 4:
        for p in range(n // 2):
            c = np.int32(codes[p])
            _add(acc, 2 * p, ((c & 15) ^ 8) - 8, unit, drop, weight, assign)
            _add(acc, 2 * p + 1, ((c >> 4) ^ 8) - 8, unit, drop, weight, assign)
        done = n // 2 * 2
    elif bits == 8:
        for i in range(n):
            _add(acc, i, (np.int32(codes[i]) ^ 128) - 128, unit, drop, weight, assign)
        done = n
    elif bits == 2:
        for p in range(n // 4):
            c = np.int32(codes[p])
            _add(acc, 4 * p, ((c & 3) ^ 2) - 2, unit, drop, weight, assign)
            _add(acc, 4 * p + 1, (((c >> 2) & 3) ^ 2) - 2, unit, drop, weight, assign)
            _add(acc, 4 * p + 2, (((c >> 4) & 3) ^ 2) - 2, unit, drop, weight, assign)
            _add(acc, 4 * p + 3, ((c >> 6) ^ 2) - 2, unit, drop, weight, assign)
        done = n // 4 * 4
    half = np.int32(1 << (bits - 1))
    mask = np.uint64((1 << bits) - 1)
    word = np.uint64(0)
    held = 0
    at = done * bits // 8
    for i in range(done, n):
        while held < bits:
            word |= np.uint64(codes[at]) << np.uint64(held)
            at += 1
            held += 8
        code = np.int32(word & mask)
        word >>= np.uint64(bits)
        held -= bits
        level = 1 - 2 * code if bits == 1 else (code ^ half) - half
        _add(acc, i, level, unit, drop, weight, assign)


@jit
def scales_range(x, starts, bucket, first, last, kind, scales):
    """Scales of buckets whose segments are first..last-1. Returns the bad element's segment, or -1."""
    cell = np.empty(1, np.int32)
    total, top, count = 0.0, np.int32(0), 0
    for g in range(first, last):
        part, high = _magnitude(x[starts[g] : starts[g + 1]], kind)
        if high >= _INF_BITS:
            return g
        total += part
        top = max(top, high)
        count += starts[g + 1] - starts[g]
        if bucket[g + 1] != bucket[g]:
            scales[bucket[g]] = _finish_scale(total, top, count, kind, cell)
            total, top, count = 0.0, np.int32(0), 0
    return -1


@jit
def encode_range(x, starts, slots, bucket, first, last, scales, s, bits, k0, k1, codes):
    """Codes of segments first..last-1, given the scales."""
    for g in range(first, last):
        lift, inv = _inverse(scales[bucket[g]], s)
        _encode_segment(
            x[starts[g] : starts[g + 1]], lift, inv, s, bits, k0, k1, slots[g], codes[slots[g] * bits // 8 :]
        )


@jit
def quantize_range(x, starts, slots, bucket, first, last, kind, scales, s, bits, k0, k1, codes):
    """Scale and codes in one pass over the cache, where every bucket is one segment."""
    cell = np.empty(1, np.int32)
    for g in range(first, last):
        segment = x[starts[g] : starts[g + 1]]
        total, top = _magnitude(segment, kind)
        if top >= _INF_BITS:
            return g
        scale = _finish_scale(total, top, segment.size, kind, cell)
        scales[bucket[g]] = scale
        lift, inv = _inverse(scale, s)
        _encode_segment(segment, lift, inv, s, bits, k0, k1, slots[g], codes[slots[g] * bits // 8 :])
    return -1


@jit
def decode_range(codes, starts, slots, bucket, first, last, scales, s, bits, weight, assign, acc):
    """acc += weight · Q(x), or acc = Q(x), for segments first..last-1."""
    for g in range(first, last):
        unit, drop = _unit(scales[bucket[g]], s)
        _decode_segment(
            codes[slots[g] * bits // 8 :], bits, unit, drop, weight, assign, acc[starts[g] : starts[g + 1]]
        )


@jit
def step_range(x, x_hat, starts, slots, bucket, first, last, kind, scales, s, bits, k0, k1, codes, scratch):
    """The hidden-state step in one pass: codes of x − x̂, then x̂ += their value. Every bucket one segment."""
    cell = np.empty(1, np.int32)
    for g in range(first, last):
        n = starts[g + 1] - starts[g]
        here, state, v = x[starts[g] : starts[g + 1]], x_hat[starts[g] : starts[g + 1]], scratch[:n]
        for i in range(n):
            v[i] = np.float32(here[i] - state[i])
        total, top = _magnitude(v, kind)
        if top >= _INF_BITS:
            return g
        scale = _finish_scale(total, top, n, kind, cell)
        scales[bucket[g]] = scale
        lift, inv = _inverse(scale, s)
        out = codes[slots[g] * bits // 8 :]
        _encode_segment(v, lift, inv, s, bits, k0, k1, slots[g], out)
        unit, drop = _unit(scale, s)
        _decode_segment(out, bits, unit, drop, np.float32(1), False, state)
    return -1


@jit
def hash_counters(k0, k1, out):
    """out[i] = hash32 of counter i."""
    for i in range(out.size):
        out[i] = _hash(k0, k1, np.uint32(i))


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="qafel-codec")


def over_segments(
    call: Callable[[int, int], Any], plan: Plan, threads: int, *, whole_buckets: bool = False
) -> list[Any]:
    """call(first, last) over all segments: at once, or in contiguous shares where threads help.

    whole_buckets: a share ends where a bucket ends, because the call finds scales.
    """
    n = plan.segments
    shares = min(threads, n // GROUP)
    if shares < 2:
        return [call(0, n)]
    cuts = [n * t // shares for t in range(shares + 1)]
    if whole_buckets and not plan.single:
        # Segment g opens a bucket where its bucket differs from the one before.
        opens = np.flatnonzero(np.diff(plan.bucket, prepend=-1))
        cuts = [int(opens[np.searchsorted(opens, c)]) for c in cuts]
    pairs = [(a, b) for a, b in pairwise(cuts) if b > a]
    return list(_pool(threads).map(lambda pair: call(*pair), pairs))


def split_key(key: int) -> tuple[np.uint32, np.uint32]:
    """(low word, high word) of a 64-bit key."""
    return np.uint32(key & 0xFFFFFFFF), np.uint32(key >> 32)


@jit
def affine_encode(x, scale, zero, bits, out):
    """code = clamp(rint(x/scale) + zero, 0, 2^bits − 1), packed; float64 arithmetic. x: one tensor."""
    top = np.float64((1 << bits) - 1)
    word = np.uint64(0)
    held = 0
    at = 0
    for i in range(x.size):
        q = np.rint(np.float64(x[i]) / scale) + zero
        q = min(max(q, 0.0), top)
        word |= np.uint64(q) << np.uint64(held)
        held += bits
        while held >= 8:
            out[at] = np.uint8(word & np.uint64(255))
            word >>= np.uint64(8)
            held -= 8
            at += 1
    if held:
        out[at] = np.uint8(word & np.uint64(255))


@jit
def affine_decode(codes, scale, zero, bits, weight, assign, acc):
    """acc += weight · (code − zero) · scale, the value rounded to float32 first; assign: acc = value."""
    mask = np.uint64((1 << bits) - 1)
    word = np.uint64(0)
    held = 0
    at = 0
    for i in range(acc.size):
        while held < bits:
            word |= np.uint64(codes[at]) << np.uint64(held)
            at += 1
            held += 8
        value = np.float32((np.float64(word & mask) - zero) * scale)
        word >>= np.uint64(bits)
        held -= bits
        if assign:
            acc[i] = value
        else:
            acc[i] += weight * value


@jit
def pack_signs(x, out):
    """Bit i = 1 where x[i] < 0, least significant first."""
    for byte in range(out.size):
        word = 0
        for k in range(min(8, x.size - 8 * byte)):
            word |= int(x[8 * byte + k] < 0) << k
        out[byte] = np.uint8(word)
