"""The lattice codec's kernels in numba; reference_lattice.py says what they compute."""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.numba.jit import add32, helper, jit, mul32
from qafel_mpi.kernels.numba.rounding import _mix
from qafel_mpi.kernels.reference import WEYL
from qafel_mpi.kernels.reference_lattice import MOST

_WEYL, _ONE = np.uint32(WEYL), np.uint32(1)


@helper
def _weight(index, k0, k1):
    return np.uint32(_mix(add32(np.uint32(k0), mul32(np.uint32(index), _WEYL)), np.uint32(k1)) | _ONE)


@helper
def _code(payload, at, i, bits):
    """Code i of the bit stream that begins at byte `at`."""
    bit = i * bits
    byte, word = at + (bit >> 3), np.int64(0)
    end = (bit & 7) + bits
    for n in range((end + 7) >> 3):
        word |= np.int64(payload[byte + n]) << (8 * n)
    return (word >> (bit & 7)) & ((np.int64(1) << bits) - 1)


@helper
def _wraps(reference, z, spacing, q):
    w = np.rint((reference / spacing - z) / q)
    return np.int64(min(max(w, -MOST / q), MOST / q))


@jit
def encode(x, spacing, bits, bucket, k0, k1, payload):
    """x, finite, to payload: checks, then codes."""
    buckets = (x.size + bucket - 1) // bucket
    at, mask = 4 * buckets, (np.int64(1) << bits) - 1
    for b in range(buckets):
        first, last = b * bucket, min((b + 1) * bucket, x.size)
        check, word, held = np.uint32(0), np.int64(0), 0
        for i in range(first, last):
            t = np.rint(np.float64(x[i]) / spacing)
            k = np.int64(min(max(t, -MOST), MOST))
            check = add32(check, mul32(np.uint32(k >> bits), _weight(i, k0, k1)))
            word |= (k & mask) << held
            held += bits
            while held >= 8:
                payload[at] = np.uint8(word & 255)
                word >>= 8
                held -= 8
                at += 1
        if held:
            payload[at] = np.uint8(word)
            at += 1
        for n in range(4):
            payload[4 * b + n] = np.uint8((np.int64(check) >> (8 * n)) & 255)


@jit
def decode(payload, reference, near_zero, spacing, bits, bucket, k0, k1, acc, weight, assign):
    """acc = Q(x), or += weight · Q(x). near_zero: of zeros; reference is not read then.

    weight: (1,), of acc's type. Returns the buckets that have wrapped around: they count as the reference.
    """
    buckets, q, kind = (acc.size + bucket - 1) // bucket, np.float64(np.int64(1) << bits), acc.dtype.type
    at, wrapped, factor = 4 * buckets, 0, weight[0]
    for b in range(buckets):
        first, last = b * bucket, min((b + 1) * bucket, acc.size)
        check = np.uint32(0)
        for i in range(first, last):
            r = 0.0 if near_zero else np.float64(reference[i])
            w = _wraps(r, np.float64(_code(payload, at, i - first, bits)), spacing, q)
            check = add32(check, mul32(np.uint32(w), _weight(i, k0, k1)))
        said = np.int64(0)
        for n in range(4):
            said |= np.int64(payload[4 * b + n]) << (8 * n)
        whole = np.int64(check) == said
        wrapped += not whole
        for i in range(first, last):
            r = 0.0 if near_zero else np.float64(reference[i])
            if whole:
                z = _code(payload, at, i - first, bits)
                w = _wraps(r, np.float64(z), spacing, q)
                r = np.float64(z + (w << bits)) * spacing
            value = kind(r)
            acc[i] = value if assign else acc[i] + factor * value
        at += ((last - first) * bits + 7) >> 3
    return wrapped
