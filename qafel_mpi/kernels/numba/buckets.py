"""The CPU kernels for buckets (qsgd, sign), in numba: no compiler is needed, and the bytes are reference.py's.

A segment (plan.py) lies in the first-level cache while its scale is found, its levels are drawn and its codes
are packed. What makes these loops fast, each found by measuring: loops over contiguous slices from index 0 that
do one simple thing; the maximum taken over the floats' bit patterns as integers (a float maximum does not
vectorise); levels as bytes; the hidden-state step subtracting and taking the maximum in one loop, close to
memory's pace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from qafel_mpi.kernels.aligned import aligned_bytes
from qafel_mpi.kernels.numba import rounding_lanes as simd
from qafel_mpi.kernels.numba.jit import bits_of, float_of, helper, jit, load32, part, prefetch, store
from qafel_mpi.kernels.numba.packing import add_codes, add_levels, pack
from qafel_mpi.kernels.numba.rounding import draw, inverse_of, round_levels, sign_levels
from qafel_mpi.kernels.plan import BUCKET, PLACE, SLOT, START, Plan, placed, shares, spread
from qafel_mpi.kernels.reference import DROP, FLOAT_MAX, L2, LIFT, LINF, MEAN, SEGMENT, SHRINK, TINY

_MAGNITUDE = np.int32(0x7FFFFFFF)
INF_BITS = np.int32(0x7F800000)
FINITE = np.int32(INF_BITS - 1)  # the largest scale's bit pattern
_ONE = np.float32(1)
ZERO = np.int32(0)
# Scratch of one thread, in bytes: a segment's hashes, its float32 values, half as many float64 sums.
VALUES_AT = 2 * SEGMENT
SUMS_AT = VALUES_AT + 4 * SEGMENT
_SCRATCH_BYTES = SUMS_AT + 4 * SEGMENT
TOGETHER = 4  # payloads that one call adds up
T = TypeVar("T")


@helper
def top_of(x):
    """The largest magnitude's bit pattern, of x rounded to float32; >= INF_BITS: not finite."""
    top = np.int32(0)
    for i in range(x.size):
        top = max(top, np.int32(bits_of(np.float32(x[i])) & _MAGNITUDE))
    return top


@helper
def take(x, out):
    """out = x rounded to float32. Returns its _top."""
    top = np.int32(0)
    for i in range(out.size):
        v = np.float32(x[i])
        out[i] = v
        top = max(top, np.int32(bits_of(v) & _MAGNITUDE))
    return top


@helper
def take_difference(x, x_hat, out):
    """out = x − x̂ rounded to float32. Returns its _top."""
    top = np.int32(0)
    for i in range(out.size):
        v = np.float32(x[i] - x_hat[i])
        out[i] = v
        top = max(top, np.int32(bits_of(v) & _MAGNITUDE))
    return top


@helper
def tree_sum(v, kind, sums):
    """reference.tree_sum of v² (L2) or |v|. sums: float64, at least half as many as v has elements."""
    if v.size == 1:
        return np.float64(v[0]) * np.float64(v[0]) if kind == L2 else abs(np.float64(v[0]))
    half = 1
    while 2 * half < v.size:
        half *= 2
    upper = v[half:]
    if kind == L2:
        for i in range(upper.size):
            a, b = np.float64(v[i]), np.float64(upper[i])
            sums[i] = a * a + b * b
        for i in range(upper.size, half):
            sums[i] = np.float64(v[i]) * np.float64(v[i])
    else:
        for i in range(upper.size):
            sums[i] = abs(np.float64(v[i])) + abs(np.float64(upper[i]))
        for i in range(upper.size, half):
            sums[i] = abs(np.float64(v[i]))
    while half > 8:
        half //= 2
        right = sums[half : 2 * half]
        for i in range(half):
            sums[i] += right[i]
    if half == 8:  # one expression is faster than three short loops
        even = (sums[0] + sums[4]) + (sums[2] + sums[6])
        return even + ((sums[1] + sums[5]) + (sums[3] + sums[7]))
    while half > 1:
        half //= 2
        for i in range(half):
            sums[i] += sums[half + i]
    return sums[0]


@helper
def scale_of(total, top, count, kind):
    if kind == LINF:
        return float_of(top)
    value = np.sqrt(total) if kind == L2 else total / count
    return np.float32(min(value, np.float64(FLOAT_MAX)))


@helper
def unit_of(scale, s):
    """(unit, drop): a level's value is level · unit · drop."""
    if scale < TINY:
        return np.float32(np.float32(scale * LIFT) / np.float32(s)), DROP
    unit = np.float32(scale / np.float32(s))
    if np.float32(np.float32(s) * unit) > FLOAT_MAX:
        unit = np.float32(unit * SHRINK)
    return unit, _ONE


@helper
def here(x, table, g):
    """Segment g of the vector x."""
    begin = table[g, PLACE]
    return part(x, begin, begin + table[g + 1, START] - table[g, START])


@jit
def _measure_range(x, table, first, last, kind, scratch, partial, tops):
    """Where a bucket has several segments: each one's part of the scale. A non-finite segment, or -1."""
    values = scratch[VALUES_AT:SUMS_AT].view(np.float32)
    sums = scratch[SUMS_AT:].view(np.float64)
    for g in range(first, last):
        v = part(values, 0, table[g + 1, START] - table[g, START])
        tops[g] = take(here(x, table, g), v)
        if tops[g] >= INF_BITS:
            return g
        if kind != LINF:
            partial[g] = tree_sum(v, kind, sums)
    return -1


@jit
def _finish_scales(table, kind, partial, tops, payload):
    """Scales of all buckets from the parts of their segments. Overwrites the parts."""
    first = 0
    for g in range(1, len(table)):
        if table[g, BUCKET] != table[first, BUCKET]:
            part = partial[first:g]
            # MEAN: the parts are sums of squares already, and positive. In place.
            total = 0.0 if kind == LINF else tree_sum(part, MEAN, part)
            count = table[g, START] - table[first, START]
            store(payload, 4 * table[first, BUCKET], scale_of(total, tops[first:g].max(), count, kind))
            first = g


@helper
def _round_pack(x, n, bits, inverse, k0, k1, slot, payload, at):
    """Codes of the first n elements of x, a multiple of simd.GROUP."""
    k0, k1 = np.uint32(k0), np.uint32(k1)
    if bits == 1:
        simd.round_pack1(x, n, inverse, k0, k1, slot, payload, at)
    elif bits == 2:
        simd.round_pack2(x, n, inverse, k0, k1, slot, payload, at)
    else:
        simd.round_pack4(x, n, inverse, k0, k1, slot, payload, at)


@jit
def encode_range(
    x, x_hat, step, known, table, first, last, kind, s, bits, k0, k1, scratch, levels, payload, codes_at
):
    """Scales (unless they are known) and codes of segments first..last-1. A non-finite segment, or -1.

    step: of x − x̂, and x̂ += their value. Otherwise x̂ is not looked at.
    """
    hashes, draws = scratch[:VALUES_AT].view(np.uint32), scratch[:VALUES_AT].view(np.uint16)
    values = scratch[VALUES_AT:SUMS_AT].view(np.float32)
    sums = scratch[SUMS_AT:].view(np.float64)
    one = x_hat.dtype.type(1)
    direct = not step and kind != MEAN and (bits == 1 or bits == 2 or bits == 4)
    for g in range(first, last):
        begin, slot = table[g, PLACE], table[g, SLOT]
        end = begin + table[g + 1, START] - table[g, START]
        here, v = part(x, begin, end), part(values, 0, end - begin)
        slots, codes_begin, scale_at = (
            table[g + 1, SLOT] - slot,
            codes_at + slot * bits // 8,
            4 * table[g, BUCKET],
        )
        if direct and kind == LINF:
            top = top_of(here)
        elif step:
            top = take_difference(here, part(x_hat, begin, end), v)
        else:
            top = take(here, v)
        if top >= INF_BITS:
            return g
        if not direct:
            prefetch(x, x.itemsize * end)
        if step:
            prefetch(x_hat, x_hat.itemsize * end)
        if known:
            scale = float_of(load32(payload, scale_at))
        else:
            total = 0.0 if kind == LINF else tree_sum(v, kind, sums)
            scale = scale_of(total, top, v.size, kind)
            store(payload, scale_at, scale)
        done = 0
        if direct and scale >= TINY:
            done = v.size // simd.GROUP * simd.GROUP
            _round_pack(here, done, bits, inverse_of(scale, s), k0, k1, slot, payload, codes_begin)
        rest = part(v, done, v.size)
        if not rest.size:
            continue
        if direct and kind == LINF:
            take(part(here, done, here.size), rest)
        if kind == MEAN:
            sign_levels(rest, levels)
        else:
            draw(k0, k1, slot + done, rest.size, hashes)
            round_levels(rest, scale, s, bits, draws, levels)
        if step:
            unit, drop = unit_of(scale, s)
            add_levels(levels, ZERO, one * unit, drop, False, part(x_hat, begin, end))
        part(levels, rest.size, rest.size + 8)[:] = 0  # up to the next segment's slot
        pack(levels, slots - done, bits, True, payload, codes_begin + done * bits // 8)
    return -1


@helper
def _ask_for_codes(payload, at):
    """Ask for the codes of a segment, of up to 4 bits each, while the segment before it is decoded."""
    for line in range(at, at + SEGMENT // 2, 64):
        prefetch(payload, line)


@jit
def decode_range(payload, table, first, last, s, bits, weight, assign, levels, codes_at, acc):
    """acc += weight · Q(x), or acc = Q(x), for segments first..last-1."""
    kind = acc.dtype.type
    for g in range(first, last):
        _ask_for_codes(payload, codes_at + table[g + 1, SLOT] * bits // 8)
        unit, drop = unit_of(float_of(load32(payload, 4 * table[g, BUCKET])), s)
        add_codes(
            payload, codes_at + table[g, SLOT] * bits // 8, bits, levels, kind(weight) * kind(unit), drop, assign,
            acc, table[g, PLACE], table[g + 1, START] - table[g, START],
        )  # fmt: skip
    return -1


@jit
def accumulate_range(payloads, weights, count, table, first, last, s, bits, levels, codes_at, acc):
    """acc += Σ weight · Q(x) of the first `count` payloads, in this order: a segment of acc is loaded once."""
    kind = acc.dtype.type
    for g in range(first, last):
        for i in range(count):  # decode_range's body; as a function of its own it takes a quarter longer
            payload = payloads[i]
            unit, drop = unit_of(float_of(load32(payload, 4 * table[g, BUCKET])), s)
            add_codes(
                payload, codes_at + table[g, SLOT] * bits // 8, bits, levels, kind(weights[i]) * kind(unit), drop,
                False, acc, table[g, PLACE], table[g + 1, START] - table[g, START],
            )  # fmt: skip
    return -1


@jit
def scales_valid(payload, buckets, most):
    """Whether the payload's leading float32 scales are not negative, and not above that with the bit pattern most."""
    ok = True
    for k in range(buckets):
        pattern = load32(payload, 4 * k)
        ok &= (pattern >= 0) & (pattern <= most)
    return ok


def _most(bits: int, s: int) -> np.int32:
    """Bit pattern of the largest scale with which every code of so many bits, also above s, is a finite float32."""
    level = max(1, 1 << (bits - 1))
    if level <= s:
        return FINITE
    return np.float32(float(FLOAT_MAX) * s / level * (1 - 2.0**-20)).view(np.int32)


@jit
def hash_counters(k0, k1, out):
    """out[i] = reference.hash32(k0 + 2^32·k1, i)."""
    draw(k0, k1, 0, 2 * out.size, out)


class BucketKernels:
    """Encode, decode and the hidden-state step for one plan. Owns its scratch: a call allocates nothing.

    x, x_hat, acc: (d,) numpy arrays, float32 or float64. payload: uint8. kind: LINF, L2 or MEAN (plain signs).
    s: levels a sign. Methods that encode return the number of a segment with an element that is not finite
    (in float32), or -1.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        bits: int,
        s: int,
        kind: int,
        threads: int = 1,
        pieces: np.ndarray | None = None,
    ):
        """pieces: where what the plan cuts lies in x (codecs.base.Layout.pieces); None: x is that."""
        self.plan, self.bits, self.s, self.kind = plan, bits, s, kind
        self.table = placed(plan, pieces)
        self.codes_at = 4 * plan.buckets
        self.most = _most(bits, s)
        self.shares = shares(plan.table[1:, START], threads)
        self.alone, self.segments = len(self.shares) == 1, plan.segments  # asked for at every payload
        self.scratch = [aligned_bytes(_SCRATCH_BYTES) for _ in self.shares]
        level = np.int8 if bits <= 8 else np.int16
        self.levels = [aligned_bytes((SEGMENT + 8) * level().itemsize).view(level) for _ in self.shares]
        many = 0 if plan.single else plan.segments
        self._partial, self._tops = np.empty(many), np.empty(many, dtype=np.int32)

    def encode(self, x: np.ndarray, payload: np.ndarray, key: int) -> int:
        """Scales and codes of x into payload."""
        if self.plan.single:
            return self._encode(x, x, payload, key, step=False, known=False)
        bad = self._measure(x, payload)
        return bad if bad >= 0 else self._encode(x, x, payload, key, step=False, known=True)

    def step(self, x: np.ndarray, x_hat: np.ndarray, payload: np.ndarray, key: int) -> int:
        """payload = Q(x − x̂); x̂ += decode(payload). For single plans. Where it refuses, x̂ has moved in part."""
        return self._encode(x, x_hat, payload, key, step=True, known=False)

    def decode(self, payload: np.ndarray, acc: np.ndarray, weight: float, *, assign: bool) -> None:
        """acc += weight · Q(x), or acc = weight · Q(x)."""
        if self.alone:  # without a function for each share
            decode_range(
                payload, self.table, 0, self.segments, self.s, self.bits, weight, assign,
                self.levels[0], self.codes_at, acc,
            )  # fmt: skip
            return

        def call(i: int, first: int, last: int) -> int:
            return decode_range(
                payload, self.table, first, last, self.s, self.bits, weight, assign,
                self.levels[i], self.codes_at, acc,
            )  # fmt: skip

        spread(call, self.shares)

    def accumulate(self, payloads: Sequence[np.ndarray], acc: np.ndarray, weights: Sequence[float]) -> None:
        """acc += Σ weight · Q(x), with the bits of `decode` of one after the other. Reads acc once for TOGETHER."""
        for at in range(0, len(payloads), TOGETHER):
            self._accumulate(payloads[at : at + TOGETHER], acc, weights[at : at + TOGETHER])

    def _accumulate(self, some: Sequence[np.ndarray], acc: np.ndarray, scales: Sequence[float]) -> None:
        payloads, weights, count = self.filled_up(some), self.filled_up(scales), len(some)

        def call(i: int, first: int, last: int) -> int:
            return accumulate_range(
                payloads, weights, count, self.table, first, last, self.s, self.bits,
                self.levels[i], self.codes_at, acc,
            )  # fmt: skip

        spread(call, self.shares)

    def filled_up(self, some: Sequence[T]) -> tuple[T, ...]:
        """TOGETHER of them: the kernel is compiled for one length of tuple."""
        return (*some, *(some[0],) * (TOGETHER - len(some)))

    def _encode(
        self, x: np.ndarray, x_hat: np.ndarray, payload: np.ndarray, key: int, *, step: bool, known: bool
    ) -> int:
        k0, k1 = key & 0xFFFFFFFF, key >> 32

        def call(i: int, first: int, last: int) -> int:
            return encode_range(
                x, x_hat, step, known, self.table, first, last, self.kind, self.s, self.bits, k0, k1,
                self.scratch[i], self.levels[i], payload, self.codes_at,
            )  # fmt: skip

        return spread(call, self.shares)

    def _measure(self, x: np.ndarray, payload: np.ndarray) -> int:
        def call(i: int, first: int, last: int) -> int:
            return _measure_range(
                x, self.table, first, last, self.kind, self.scratch[i], self._partial, self._tops
            )

        bad = spread(call, self.shares)
        if bad < 0:
            _finish_scales(self.table, self.kind, self._partial, self._tops, payload)
        return bad
