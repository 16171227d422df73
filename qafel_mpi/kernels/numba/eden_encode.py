"""eden's encoder for the CPU: integers, their transform and the codes of one block after the other, in the cache."""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels import reference
from qafel_mpi.kernels.blocks import LANES
from qafel_mpi.kernels.numba import lanes as simd
from qafel_mpi.kernels.numba.buckets import INF_BITS, take, take_difference, top_of
from qafel_mpi.kernels.numba.hadamard import (
    AGAIN,
    INVERSES,
    NORMS,
    SQUARES,
    SUMS,
    VALUES,
    draw_in,
    passes,
    spread_out,
)
from qafel_mpi.kernels.numba.jit import float_of, helper, jit, part, prefetch, store
from qafel_mpi.kernels.numba.rounding import draw
from qafel_mpi.kernels.reference import EDEN_BITS, EDEN_UNIT

_GROUP = simd.GROUP
_LEAST_BITS = np.int32(reference.EDEN_LEAST.view(np.int32))
_UNIT = np.int64(EDEN_UNIT)


@helper
def _ahead(x, at):
    """Ask for LANES · GROUP elements of x from `at` on, while others are worked at."""
    for byte in range(x.itemsize * at, x.itemsize * (at + LANES * _GROUP), 64):
        prefetch(x, byte)


@helper
def _quantize(z, m, bits, inverses, sums, squares, codes, at, x, ahead):
    step = LANES * bits
    if bits == 1:
        for g in range(m >> 3):
            _ahead(x, ahead + LANES * _GROUP * g)
            simd.quantize1(z, LANES * _GROUP * g, inverses, sums, squares, codes, at + g * step)
    elif bits == 2:
        for g in range(m >> 3):
            _ahead(x, ahead + LANES * _GROUP * g)
            simd.quantize2(z, LANES * _GROUP * g, inverses, sums, squares, codes, at + g * step)
    elif bits == 3:
        for g in range(m >> 3):
            _ahead(x, ahead + LANES * _GROUP * g)
            simd.quantize3(z, LANES * _GROUP * g, inverses, sums, squares, codes, at + g * step)
    else:
        for g in range(m >> 3):
            _ahead(x, ahead + LANES * _GROUP * g)
            simd.quantize4(z, LANES * _GROUP * g, inverses, sums, squares, codes, at + g * step)


@helper
def _quantize_squared(z, m, bits, inverses, sums, squares, codes, at, x, ahead):
    """_quantize with the sums of squares, which the scale of least squares needs."""
    step = LANES * bits
    if bits == 1:
        for g in range(m >> 3):
            _ahead(x, ahead + LANES * _GROUP * g)
            simd.squared1(z, LANES * _GROUP * g, inverses, sums, squares, codes, at + g * step)
    elif bits == 2:
        for g in range(m >> 3):
            _ahead(x, ahead + LANES * _GROUP * g)
            simd.squared2(z, LANES * _GROUP * g, inverses, sums, squares, codes, at + g * step)
    elif bits == 3:
        for g in range(m >> 3):
            _ahead(x, ahead + LANES * _GROUP * g)
            simd.squared3(z, LANES * _GROUP * g, inverses, sums, squares, codes, at + g * step)
    else:
        for g in range(m >> 3):
            _ahead(x, ahead + LANES * _GROUP * g)
            simd.squared4(z, LANES * _GROUP * g, inverses, sums, squares, codes, at + g * step)


@helper
def _norm_at(lane):
    """Where simd.to_integers and simd.again put a lane's norm: first the even ones, then the odd ones."""
    return (lane & 1) * (LANES // 2) + (lane >> 1)


@helper
def _encode_block(
    v, v_at, top, m, bits, rotations, least, most, position, k0, k1, scratch, codes, at, scales, x, ahead,
):  # fmt: skip
    """Codes of LANES buckets in v[v_at:] to codes[at:], and their scales. top: the largest value's bit pattern.

    x, ahead: where the next block begins, which is fetched from memory meanwhile.
    """
    norms = part(scratch, NORMS, SUMS).view(np.int64)
    sums = part(scratch, SUMS, SQUARES).view(np.int32)
    squares = part(scratch, SQUARES, INVERSES).view(np.int32)
    inverses = part(scratch, INVERSES, VALUES).view(np.float32)
    rows = VALUES + 64 * m
    z = part(scratch, rows, rows + 64 * m).view(np.int32)
    signs = part(scratch, rows + 72 * m, rows + 74 * m).view(np.uint32)
    norms[:] = 0
    sums[:] = 0
    squares[:] = 0
    exponent = (top >> 23) - 127
    draw(k0, k1, position, m, signs)
    factor = float_of(np.int32((127 + EDEN_BITS - exponent) << 23))
    for g in range(m >> 3):
        here = LANES * _GROUP * g
        simd.to_integers(v, v_at + here, z, here, factor, signs, 4 * g, norms)
    passes(z, m)
    if rotations == 2:
        norms[:] = 0
        draw(k0, k1, position + AGAIN, m, signs)
        shift = 0
        while 1 << shift < m:
            shift += 1
        for g in range(m >> 3):
            simd.again(z, LANES * _GROUP * g, shift, signs, 4 * g, norms)
        passes(z, m)
    for lane in range(LANES):
        root = np.sqrt(np.float64(norms[_norm_at(lane)]))
        inverses[lane] = np.float32(_UNIT / max(root, 1.0))
    if least:
        _quantize_squared(z, m, bits, inverses, sums, squares, codes, at, x, ahead)
    else:
        _quantize(z, m, bits, inverses, sums, squares, codes, at, x, ahead)
    unit = np.float64(float_of(np.int32((127 + exponent - EDEN_BITS) << 23)))
    for lane in range(LANES):
        root = np.sqrt(np.float64(norms[_norm_at(lane)]))
        if least:
            scale = np.float64(sums[lane]) * root / np.float64(_UNIT * m * np.int64(squares[lane])) * unit
        else:
            scale = _UNIT * root / np.float64(max(sums[lane], 1)) * unit
        scales[lane] = np.float32(min(scale, most))


@helper
def _take_pieces(x, x_hat, step, pieces, k, first, out):
    """out = the elements from `first` on of what the pieces make, of x or x − x̂. k: a piece that is not behind them.

    Returns (the largest value's bit pattern, the last piece).
    """
    top, done = np.int32(0), 0
    while done < out.size:
        while pieces[k, 1] + pieces[k, 2] <= first + done:
            k += 1
        into = first + done - pieces[k, 1]
        n, place = min(pieces[k, 2] - into, out.size - done), pieces[k, 0] + into
        here, target = part(x, place, place + n), part(out, done, done + n)
        if step:
            top = max(top, take_difference(here, part(x_hat, place, place + n), target))
        else:
            top = max(top, take(here, target))
        done += n
    return top, k


@helper
def room_of(scratch, size, full, count):
    """(rows, values): where a block's values go, `count` of them; of the last block they are spread to the rows."""
    rows = part(scratch, VALUES, VALUES + 64 * size).view(np.float32)
    if full:
        return rows, rows
    behind = VALUES + 64 * size  # where its integers will be
    return rows, part(scratch, behind, behind + 4 * count).view(np.float32)


@helper
def encode_block(
    source, source_at, flat, top, k, d, m, whole, last_m, lanes, bits, rotations, least, most, last_most, k0, k1,
    scratch, scales, payload, codes_at, x,
):  # fmt: skip
    """Scales and codes of block k: of source[source_at:], or where it is not whole of flat.

    top: the largest value's bit pattern. x: what is asked for ahead.
    """
    begin, at = LANES * m * k, codes_at + 2 * m * bits * k
    full = k < whole
    size, width = (m, LANES) if full else (last_m, lanes)
    end = begin + LANES * m if full else d
    rows, _ = room_of(scratch, size, full, end - begin)
    if full:
        prefetch(x, x.itemsize * end)
    else:
        spread_out(flat, end - begin, lanes, rows)
    if top < _LEAST_BITS:
        for lane in range(width):
            store(payload, 4 * (LANES * k + lane), np.float32(0))
        part(payload, at, at + width * size * bits // 8)[:] = 0
        return
    if full:
        _encode_block(
            source, source_at, top, m, bits, rotations, least, most, m * k, k0, k1, scratch, payload, at,
            scales, x, end,
        )  # fmt: skip
    else:
        codes_begin = VALUES + 128 * size
        codes = part(scratch, codes_begin, codes_begin + 8 * size)
        _encode_block(
            rows, 0, top, size, bits, rotations, least, last_most, m * k, k0, k1, scratch, codes, 0,
            scales, x, end,
        )  # fmt: skip
        draw_in(codes, lanes * (size * bits // 8), lanes, payload, at)
    for lane in range(width):
        store(payload, 4 * (LANES * k + lane), scales[lane])


@jit
def encode_range(
    x, x_hat, step, pieces, d, m, whole, last_m, lanes, first, last, bits, rotations, least, most, last_most,
    k0, k1, scratch, payload, codes_at,
):  # fmt: skip
    """Scales and codes of blocks first..last-1. A block that is not finite, or -1. step: of x − x̂.

    pieces: where the d elements lie in x, if not side by side.
    """
    scales = np.empty(LANES, np.float32)
    apart, piece = len(pieces) > 0, 0
    for k in range(first, last):
        full = k < whole
        begin, end = LANES * m * k, LANES * m * (k + 1) if full else d
        rows, flat = room_of(scratch, m if full else last_m, full, end - begin)
        if apart:
            top, piece = _take_pieces(x, x_hat, step, pieces, piece, begin, part(flat, 0, end - begin))
        elif step:
            top = take_difference(part(x, begin, end), part(x_hat, begin, end), flat)
        elif full:
            top = top_of(part(x, begin, end))
        else:
            top = take(part(x, begin, end), flat)
        if top >= INF_BITS:
            return k
        if step or apart:
            encode_block(
                rows, 0, flat, top, k, d, m, whole, last_m, lanes, bits, rotations, least, most, last_most,
                k0, k1, scratch, scales, payload, codes_at, x,
            )  # fmt: skip
        else:
            encode_block(
                x, begin, flat, top, k, d, m, whole, last_m, lanes, bits, rotations, least, most, last_most,
                k0, k1, scratch, scales, payload, codes_at, x,
            )  # fmt: skip
    return -1
