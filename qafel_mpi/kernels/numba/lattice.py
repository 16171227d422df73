"""The lattice codec's kernels in numba: a chunk of a bucket at a time, in loops that LLVM vectorises.

reference_lattice.py says what they compute.
"""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.numba.jit import add32, helper, jit, mul32, part
from qafel_mpi.kernels.numba.rounding import draw
from qafel_mpi.kernels.reference_lattice import MOST

CHUNK = 512  # elements: their codes end at a whole byte, whatever the bits
_ONE = np.uint32(1)


@helper
def _check(wraps, first, k0, k1, hashes):
    """What the wraps of a chunk that begins at element `first` count in their bucket's check."""
    draw(k0, k1, 2 * first, 2 * wraps.size, hashes)
    check = np.uint32(0)
    for i in range(wraps.size):
        check = add32(check, mul32(np.uint32(wraps[i]), np.uint32(hashes[i] | _ONE)))
    return check


@helper
def _unpack(payload, at, bits, codes):
    """codes: float64, of the bit stream that begins at byte `at`."""
    n = codes.size
    if bits == 8:
        source = part(payload, at, at + n)
        for i in range(n):
            codes[i] = source[i]
        return
    if bits == 4:
        source = part(payload, at, at + (n + 1) // 2)
        for i in range(n // 2):
            codes[2 * i] = source[i] & np.uint8(15)
            codes[2 * i + 1] = source[i] >> np.uint8(4)
        if n & 1:
            codes[n - 1] = source[n // 2] & np.uint8(15)
        return
    word, held, mask = np.int64(0), 0, (np.int64(1) << bits) - 1
    for i in range(n):
        while held < bits:
            word |= np.int64(payload[at]) << held
            at += 1
            held += 8
        codes[i] = word & mask
        word >>= bits
        held -= bits


@helper
def _pack(codes, bits, payload, at):
    """Codes, int64, to the bit stream from byte `at` on."""
    n = codes.size
    if bits == 8:
        for i in range(n):
            payload[at + i] = np.uint8(codes[i])
        return
    word, held = np.int64(0), 0
    for i in range(n):
        word |= codes[i] << held
        held += bits
        while held >= 8:
            payload[at] = np.uint8(word & 255)
            at += 1
            word >>= 8
            held -= 8
    if held:
        payload[at] = np.uint8(word)


@helper
def _near(payload, at, reference, near_zero, spacing, bits, codes, wraps):
    """Codes of a chunk, and the wraps that bring each nearest to the reference; both float64."""
    # A division by a power of two is a product with its inverse, to the bit.
    inverse, most = 1.0 / np.float64(np.int64(1) << bits), MOST / np.float64(np.int64(1) << bits)
    _unpack(payload, at, bits, codes)
    if near_zero:
        for i in range(codes.size):
            wraps[i] = min(max(np.rint(-codes[i] * inverse), -most), most)
    else:
        for i in range(codes.size):
            w = np.rint((np.float64(reference[i]) / spacing - codes[i]) * inverse)
            wraps[i] = min(max(w, -most), most)


@helper
def _whole_numbers(values, out):
    for i in range(values.size):
        out[i] = np.int64(values[i])


@jit
def encode(x, spacing, bits, bucket, k0, k1, payload):
    """x, finite, to payload: checks, then codes."""
    buckets = (x.size + bucket - 1) // bucket
    at, mask = 4 * buckets, (np.int64(1) << bits) - 1
    points, wraps = np.empty(CHUNK, np.int64), np.empty(CHUNK, np.int64)
    hashes = np.empty(CHUNK, np.uint32)
    for b in range(buckets):
        last, check = min((b + 1) * bucket, x.size), np.uint32(0)
        for first in range(b * bucket, last, CHUNK):
            here = part(x, first, min(first + CHUNK, last))
            n = here.size
            own = part(points, 0, n)
            for i in range(n):
                own[i] = np.int64(min(max(np.rint(np.float64(here[i]) / spacing), -MOST), MOST))
            for i in range(n):
                wraps[i] = own[i] >> bits
                own[i] &= mask
            check = add32(check, _check(part(wraps, 0, n), first, k0, k1, hashes))
            _pack(own, bits, payload, at)
            at += (n * bits + 7) >> 3
        for n in range(4):
            payload[4 * b + n] = np.uint8((np.int64(check) >> (8 * n)) & 255)


@helper
def _put(codes, wraps, spacing, bits, acc, factor, assign):
    kind, q = acc.dtype.type, np.float64(np.int64(1) << bits)
    if assign:
        for i in range(acc.size):
            acc[i] = kind((codes[i] + wraps[i] * q) * spacing)
    else:
        for i in range(acc.size):
            acc[i] += factor * kind((codes[i] + wraps[i] * q) * spacing)


@helper
def _keep(reference, near_zero, acc, factor, assign):
    """What a bucket that has wrapped around counts as: the reference."""
    kind = acc.dtype.type
    for i in range(acc.size):
        value = kind(0.0 if near_zero else np.float64(reference[i]))
        acc[i] = value if assign else acc[i] + factor * value


@jit
def decode(payload, reference, near_zero, spacing, bits, bucket, k0, k1, acc, weight, assign):
    """acc = Q(x), or += weight · Q(x). near_zero: of zeros; reference is not read then.

    weight: (1,), of acc's type. Returns the buckets that have wrapped around: they count as the reference.
    """
    buckets = (acc.size + bucket - 1) // bucket
    at, wrapped, factor = 4 * buckets, 0, weight[0]
    codes, wraps, hashes = np.empty(CHUNK), np.empty(CHUNK), np.empty(CHUNK, np.uint32)
    numbers = np.empty(CHUNK, np.int64)
    for b in range(buckets):
        begin, last, check = b * bucket, min((b + 1) * bucket, acc.size), np.uint32(0)
        for first in range(begin, last, CHUNK):
            n = min(CHUNK, last - first)
            near = part(reference, first, first + n)
            place = at + ((first - begin) * bits >> 3)
            _near(payload, place, near, near_zero, spacing, bits, part(codes, 0, n), part(wraps, 0, n))
            _whole_numbers(part(wraps, 0, n), numbers)
            check = add32(check, _check(part(numbers, 0, n), first, k0, k1, hashes))
        said = np.int64(0)
        for n in range(4):
            said |= np.int64(payload[4 * b + n]) << (8 * n)
        whole = np.int64(check) == said
        wrapped += not whole
        for first in range(begin, last, CHUNK):
            n = min(CHUNK, last - first)
            near, here = part(reference, first, first + n), part(acc, first, first + n)
            if not whole:
                _keep(near, near_zero, here, factor, assign)
                continue
            if last - begin > CHUNK:  # else they are still there
                place = at + ((first - begin) * bits >> 3)
                _near(payload, place, near, near_zero, spacing, bits, part(codes, 0, n), part(wraps, 0, n))
            _put(codes, wraps, spacing, bits, here, factor, assign)
        at += ((last - begin) * bits + 7) >> 3
    return wrapped
