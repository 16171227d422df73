"""eden's decoder for the CPU: levels, their transform and the sums of one block after the other, in the cache.

The levels are small, so that the passes work on 16-bit numbers where the bucket allows.
"""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.blocks import LANES
from qafel_mpi.kernels.numba import lanes as simd
from qafel_mpi.kernels.numba.hadamard import AGAIN, VALUES, draw_in, passes, spread_out
from qafel_mpi.kernels.numba.jit import float_of, helper, jit, load32, part, prefetch
from qafel_mpi.kernels.numba.rounding import draw

_GROUP = simd.GROUP


@helper
def _levels(codes, at, m, bits, z):
    step = LANES * bits
    if bits == 1:
        for g in range(m >> 3):
            simd.levels_of1(codes, at + g * step, z, LANES * _GROUP * g)
    elif bits == 2:
        for g in range(m >> 3):
            simd.levels_of2(codes, at + g * step, z, LANES * _GROUP * g)
    elif bits == 3:
        for g in range(m >> 3):
            simd.levels_of3(codes, at + g * step, z, LANES * _GROUP * g)
    else:
        for g in range(m >> 3):
            simd.levels_of4(codes, at + g * step, z, LANES * _GROUP * g)


@helper
def _transformed(codes, at, m, bits, z):
    _levels(codes, at, m, bits, z)
    passes(z, m)


@helper
def _add(z, m, factors, signs, acc, acc_at, assign):
    if assign:
        for g in range(m >> 3):
            simd.assign(z, LANES * _GROUP * g, factors, signs, 4 * g, acc, acc_at + LANES * _GROUP * g)
    else:
        for g in range(m >> 3):
            simd.add(z, LANES * _GROUP * g, factors, signs, 4 * g, acc, acc_at + LANES * _GROUP * g)


@helper
def _back(z, m, wide, signs):
    for g in range(m >> 3):
        simd.back(z, wide, LANES * _GROUP * g, signs, 4 * g)


@helper
def _decode_block(
    codes, at, m, bits, rotations, narrow, position, k0, k1, scratch, factors, acc, acc_at, assign
):
    """acc[acc_at:] += factor · what the codes stand for, for LANES buckets of m elements."""
    rows = VALUES + 64 * m
    wide = part(scratch, VALUES, VALUES + 64 * m).view(np.int32)
    short = part(scratch, rows, rows + 32 * m).view(np.int16)
    signs = part(scratch, rows + 72 * m, rows + 74 * m).view(np.uint32)
    if narrow:
        _transformed(codes, at, m, bits, short)
    else:
        _transformed(codes, at, m, bits, wide)
    if rotations == 2:
        draw(k0, k1, position + AGAIN, m, signs)
        if narrow:
            _back(short, m, wide, signs)
        else:
            _back(wide, m, wide, signs)
        passes(wide, m)
    draw(k0, k1, position, m, signs)
    if narrow and rotations == 1:
        _add(short, m, factors, signs, acc, acc_at, assign)
    else:
        _add(wide, m, factors, signs, acc, acc_at, assign)


@helper
def _put(values, assign, acc):
    if assign:
        for i in range(acc.size):
            acc[i] = values[i]
    else:
        for i in range(acc.size):
            acc[i] += values[i]


@helper
def _put_pieces(values, pieces, k, first, assign, acc):
    """acc += values, the elements from `first` on of what the pieces make; as eden_encode's _take_pieces."""
    done = 0
    while done < values.size:
        while pieces[k, 1] + pieces[k, 2] <= first + done:
            k += 1
        into = first + done - pieces[k, 1]
        n, place = min(pieces[k, 2] - into, values.size - done), pieces[k, 0] + into
        _put(part(values, done, done + n), assign, part(acc, place, place + n))
        done += n
    return k


@jit
def decode_range(
    payload, pieces, d, m, whole, last_m, lanes, first, last, bits, rotations, narrow, weight, assign, k0, k1,
    scratch, factors, values, codes_at, acc,
):  # fmt: skip
    """acc += weight · Q(x), or acc = Q(x), for blocks first..last-1. factors, values: of acc's type.

    pieces: where the d elements lie in acc, if not side by side.
    """
    kind = acc.dtype.type
    apart, piece = len(pieces) > 0, 0
    for k in range(first, last):
        begin, at = LANES * m * k, codes_at + 2 * m * bits * k
        full = k < whole
        width = LANES if full else lanes
        for lane in range(width):
            factors[lane] = kind(weight) * kind(float_of(load32(payload, 4 * (LANES * k + lane))))
        if full and apart:
            _decode_block(
                payload, at, m, bits, rotations, narrow, m * k, k0, k1, scratch, factors, values, 0, True
            )
            piece = _put_pieces(part(values, 0, LANES * m), pieces, piece, begin, assign, acc)
            continue
        if full:
            prefetch(acc, acc.itemsize * (begin + LANES * m))
            _decode_block(
                payload, at, m, bits, rotations, narrow, m * k, k0, k1, scratch, factors, acc, begin, assign
            )
            continue
        codes_begin = VALUES + 128 * last_m
        codes = part(scratch, codes_begin, codes_begin + 2 * last_m * bits)
        own = lanes * (last_m * bits // 8)
        spread_out(part(payload, at, at + own), own, lanes, codes)
        _decode_block(
            codes, 0, last_m, bits, rotations, narrow, m * k, k0, k1, scratch, factors, values, 0, True
        )
        left = d - begin
        draw_in(values, left, lanes, values, 0)
        if apart:
            _put_pieces(part(values, 0, left), pieces, piece, begin, assign, acc)
        else:
            _put(part(values, 0, left), assign, part(acc, begin, d))
    return -1


@helper
def _sum(codes, at, m, bits, factors, acc, acc_at):
    step = LANES * bits
    if bits == 1:
        for g in range(m >> 3):
            simd.sum_levels1(codes, at + g * step, factors, acc, acc_at + LANES * _GROUP * g)
    elif bits == 2:
        for g in range(m >> 3):
            simd.sum_levels2(codes, at + g * step, factors, acc, acc_at + LANES * _GROUP * g)
    elif bits == 3:
        for g in range(m >> 3):
            simd.sum_levels3(codes, at + g * step, factors, acc, acc_at + LANES * _GROUP * g)
    else:
        for g in range(m >> 3):
            simd.sum_levels4(codes, at + g * step, factors, acc, acc_at + LANES * _GROUP * g)


@jit
def sum_range(
    payload, m, whole, last_m, lanes, first, last, bits, weight, scratch, factors, values, codes_at, sums
):
    """sums += weight · scale · level for blocks first..last-1: in the rotated basis, with nothing to transform."""
    kind = sums.dtype.type
    for k in range(first, last):
        begin, at = LANES * m * k, codes_at + 2 * m * bits * k
        full = k < whole
        for lane in range(LANES if full else lanes):
            factors[lane] = kind(weight) * kind(float_of(load32(payload, 4 * (LANES * k + lane))))
        if full:
            _sum(payload, at, m, bits, factors, sums, begin)
            continue
        codes_begin = VALUES + 128 * last_m
        codes = part(scratch, codes_begin, codes_begin + 2 * last_m * bits)
        own = lanes * (last_m * bits // 8)
        spread_out(part(payload, at, at + own), own, lanes, codes)
        values[:] = 0
        _sum(codes, 0, last_m, bits, factors, values, 0)
        draw_in(values, lanes * last_m, lanes, values, 0)
        _put(part(values, 0, lanes * last_m), False, part(sums, begin, begin + lanes * last_m))
    return -1


@jit
def scales_valid(payload, buckets, full_buckets, most, last_most):
    """Whether the leading float32 scales are between 0 and the largest that an encoder writes."""
    ok = True
    for k in range(buckets):
        pattern = load32(payload, 4 * k)
        ok &= (pattern >= 0) & (pattern <= (most if k < full_buckets else last_most))
    return ok
