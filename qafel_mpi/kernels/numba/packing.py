"""Levels, one small integer an element, to packed codes and back, and into accumulators (numba helpers).

Up to 8 bits a level is a byte, and eight of them are packed inside one 64-bit word whatever the width: 4, 2 and
8 bits have shorter ways. 9 to 16 bits go through a bit stream. Signed codes are two's complement; one bit
stands for +1 (0) or −1 (1). Unsigned codes are themselves.
"""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.numba import packing_lanes as simd
from qafel_mpi.kernels.numba.jit import helper, inlined, load16, load32, load64, part, store

_U64, _ZERO = np.uint64, np.int32(0)
_BYTES, _PAIRS, _FOURS = _U64(0x0101010101010101), _U64(0x0001000100010001), _U64(0x0000000100000001)


@helper
def _squeeze(word, bits, signed):
    """Eight levels, a byte each, to eight codes side by side."""
    if bits == 1 and signed:
        word >>= _U64(7)
    word &= _U64((1 << bits) - 1) * _BYTES
    word = (word & _U64(0x00FF00FF00FF00FF)) | ((word & _U64(0xFF00FF00FF00FF00)) >> _U64(8 - bits))
    word = (word & _U64(0x0000FFFF0000FFFF)) | ((word & _U64(0xFFFF0000FFFF0000)) >> _U64(16 - 2 * bits))
    return (word & _U64(0xFFFFFFFF)) | ((word >> _U64(32)) << _U64(4 * bits))


@helper
def _spread(word, bits, signed):
    """Eight codes side by side to eight levels, a byte each."""
    four = _U64((1 << (4 * bits)) - 1)
    two = _U64((1 << (2 * bits)) - 1) * _FOURS
    one = _U64((1 << bits) - 1) * _PAIRS
    word = (word & four) | (((word >> _U64(4 * bits)) & four) << _U64(32))
    word = (word & two) | ((word << _U64(16 - 2 * bits)) & (two << _U64(16)))
    word = (word & one) | ((word << _U64(8 - bits)) & (one << _U64(8)))
    if not signed:
        return word
    if bits == 1:
        return (word * _U64(0xFE)) | _BYTES
    # Sign extension within each byte, without a borrow from the next.
    half = 1 << (bits - 1)
    return ((word ^ (_U64(half) * _BYTES)) + _U64(128 - half) * _BYTES) ^ _U64(0x8080808080808080)


@helper
def pack(levels, n, bits, signed, payload, at):
    """The codes of n levels to payload[at:], no byte more. Overwrites the levels.

    Up to 7 levels behind them are packed too, and must be 0.
    """
    if levels.itemsize == 2:
        _pack_wide(levels, n, bits, payload[at:])
        return
    end = at + ((n * bits + 7) >> 3)
    out = part(payload, at, end)
    if bits == 8:
        for i in range(n):
            out[i] = np.uint8(levels[i])
        return
    if bits == 4:
        whole = n // simd.GROUP
        simd.pack4(levels, out, whole)
        for p in range(simd.GROUP // 2 * whole, out.size):
            pair = load16(levels, 2 * p)
            out[p] = np.uint8((pair & 15) | ((pair >> 4) & 0xF0))
        return
    if bits == 2:
        whole = n // simd.GROUP
        simd.pack2(levels, out, whole)
        for p in range(simd.GROUP // 4 * whole, out.size):
            four = np.uint32(load32(levels, 4 * p))
            out[p] = np.uint8((four & 3) | ((four >> 6) & 12) | ((four >> 12) & 48) | ((four >> 18) & 192))
        return
    done = 0
    if bits == 1 and signed:
        done = n // simd.GROUP
        simd.pack1(levels, out, done)
        done *= simd.GROUP // 8
    groups = (n + 7) >> 3
    for g in range(done, groups):
        store(levels, 8 * g, _squeeze(load64(levels, 8 * g), bits, signed))
    # A store of 8 bytes overruns its `bits`; the next group writes those again, and the last are written singly.
    roomy = min(groups, max(0, (out.size - 8) // bits + 1))
    for g in range(done, roomy):
        store(out, g * bits, load64(levels, 8 * g))
    for g in range(max(done, roomy), groups):
        word = load64(levels, 8 * g)
        for i in range(g * bits, min(g * bits + bits, out.size)):
            out[i] = np.uint8(word & _U64(255))
            word >>= _U64(8)


@helper
def unpack(payload, at, n, bits, signed, levels):
    """n levels from payload[at:]; up to 7 entries of `levels` behind them are overwritten too."""
    if levels.itemsize == 2:
        _unpack_wide(payload[at:], n, bits, levels)
        return
    end = at + ((n * bits + 7) >> 3)
    source = part(payload, at, end)
    if bits == 8:
        for i in range(n):
            levels[i] = np.int8(source[i])
        return
    if bits == 4:
        flip, rest, high = (0x0808, 0x7878, 0x8080) if signed else (0, 0, 0)  # as in _spread
        for p in range(source.size):
            c = np.uint16(source[p])
            pair = np.uint16((c | (c << 4)) & 0x0F0F)
            store(levels, 2 * p, np.uint16(np.uint16((pair ^ flip) + rest) ^ high))
        return
    if bits == 2:
        flip, rest, high = (0x02020202, 0x7E7E7E7E, 0x80808080) if signed else (0, 0, 0)
        for p in range(source.size):
            b = np.uint32(source[p])
            four = np.uint32((b | (b << 6) | (b << 12) | (b << 18)) & 0x03030303)
            store(levels, 4 * p, np.uint32(np.uint32((four ^ flip) + rest) ^ high))
        return
    groups = (n + 7) >> 3
    roomy = min(groups, max(0, (payload.size - at - 8) // bits + 1))
    for g in range(roomy):
        store(levels, 8 * g, load64(payload, at + g * bits))
    for g in range(roomy, groups):
        word = _U64(0)
        for i in range(min(bits, source.size - g * bits)):
            word |= _U64(source[g * bits + i]) << _U64(8 * i)
        store(levels, 8 * g, word)
    for g in range(groups):
        store(levels, 8 * g, _spread(load64(levels, 8 * g), bits, signed))


@helper
def _pack_wide(levels, n, bits, out):
    mask = _U64((1 << bits) - 1)
    word = _U64(0)
    held = 0
    at = 0
    for i in range(n):
        word |= (_U64(levels[i]) & mask) << _U64(held)
        held += bits
        while held >= 8:
            out[at] = np.uint8(word & _U64(255))
            word >>= _U64(8)
            held -= 8
            at += 1
    if held:
        out[at] = np.uint8(word & _U64(255))


@helper
def _unpack_wide(source, n, bits, levels):
    half = np.int32(1 << (bits - 1))
    mask = _U64((1 << bits) - 1)
    word = _U64(0)
    held = 0
    at = 0
    for i in range(n):
        while held < bits:
            word |= _U64(source[at]) << _U64(held)
            at += 1
            held += 8
        levels[i] = (np.int32(word & mask) ^ half) - half
        word >>= _U64(bits)
        held -= bits


@helper
def add_levels(levels, zero, factor, drop, assign, acc):
    """acc += (level − zero) · factor · drop, all in acc's type; assign: acc = that."""
    kind = acc.dtype.type
    if drop != 1:
        for i in range(acc.size):
            value = kind(np.int32(np.int32(levels[i]) - zero)) * factor * kind(drop)
            acc[i] = value if assign else acc[i] + value
    elif assign:
        for i in range(acc.size):
            acc[i] = kind(np.int32(np.int32(levels[i]) - zero)) * factor
    else:
        for i in range(acc.size):
            acc[i] += kind(np.int32(np.int32(levels[i]) - zero)) * factor


@inlined
def add_codes(payload, at, bits, levels, factor, drop, assign, acc, begin, count):
    """unpack and add_levels, of signed codes from byte `at` on, to acc[begin : begin + count]."""
    done = 0
    if bits == 4 and drop == 1:
        groups = count // 16
        if assign:
            simd.put4(payload, at, groups, factor, acc, begin)
        else:
            simd.add4(payload, at, groups, factor, acc, begin)
        done = 16 * groups
    if done < count:
        unpack(payload, at + done * bits // 8, count - done, bits, True, levels)
        add_levels(levels, _ZERO, factor, drop, assign, part(acc, begin + done, begin + count))
