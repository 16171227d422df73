"""The lattice codec as plain numpy formulas: the definition of what kernels/numba/lattice.py computes."""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.reference import hash32

MOST = 2.0**52  # points are counted from −MOST to MOST: whole numbers that a float64 holds


def weights(key: int, first: int, last: int) -> np.ndarray:
    """(last − first,) uint32, odd: what the wraps of these elements count in a bucket's check."""
    return hash32(key, np.arange(first, last)) | np.uint32(1)


def points(x: np.ndarray, spacing: float, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(code z, wraps w) of each element, int64: its nearest point is number z + w · 2^bits."""
    with np.errstate(over="ignore"):
        k = np.rint(x.astype(np.float64) / spacing).clip(-MOST, MOST).astype(np.int64)
    return k & ((1 << bits) - 1), k >> bits


def wraps_near(reference: np.ndarray, codes: np.ndarray, spacing: float, bits: int) -> np.ndarray:
    """w that brings each code's point nearest to the reference, int64."""
    q = float(1 << bits)
    with np.errstate(over="ignore"):
        w = np.rint((reference.astype(np.float64) / spacing - codes) / q)
    return w.clip(-MOST / q, MOST / q).astype(np.int64)


def check_of(wraps: np.ndarray, key: int, first: int) -> int:
    """Of the wraps of a bucket that begins at element `first`: 32 bits."""
    return int((wraps.astype(np.uint32) * weights(key, first, first + len(wraps))).sum(dtype=np.uint32))


def encode_lattice(x: np.ndarray, *, spacing: float, bits: int, bucket: int, key: int) -> bytes:
    """The payload: a check of each bucket, then each bucket's codes, from a whole byte on."""
    checks, codes = [], b""
    for first in range(0, len(x), bucket):
        z, w = points(x[first : first + bucket], spacing, bits)
        checks.append(check_of(w, key, first))
        stream = (z[:, None] >> np.arange(bits) & 1).astype(np.uint8).reshape(-1)
        codes += np.packbits(stream, bitorder="little").tobytes()
    return np.array(checks, dtype="<u4").tobytes() + codes


def decode_lattice(
    payload: bytes, reference: np.ndarray, *, spacing: float, bits: int, bucket: int, key: int
) -> tuple[np.ndarray, int]:
    """(values of the reference's type, buckets that have wrapped around, which are the reference itself)."""
    out, wrapped, buckets = reference.copy(), 0, -(-len(reference) // bucket)
    checks, at = np.frombuffer(payload, dtype="<u4", count=buckets), 4 * buckets
    for b in range(buckets):
        near = reference[b * bucket : (b + 1) * bucket]
        size = -(-len(near) * bits // 8)
        stream = np.unpackbits(np.frombuffer(payload[at : at + size], np.uint8), bitorder="little")
        z = (stream[: len(near) * bits].reshape(-1, bits).astype(np.int64) << np.arange(bits)).sum(axis=1)
        at += size
        w = wraps_near(near, z, spacing, bits)
        if check_of(w, key, b * bucket) != checks[b]:
            wrapped += 1
        else:
            out[b * bucket : (b + 1) * bucket] = (z + (w << bits)).astype(np.float64) * spacing
    return out, wrapped
