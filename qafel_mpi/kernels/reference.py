"""The kernels as plain numpy formulas: slow, short, and the definition of the bytes that the fast ones give.

Buckets and slots. A vector is cut into buckets, each with one float32 scale. Bucket k holds the elements
[starts[k], starts[k+1]) and its codes take the slots from slots[k], a multiple of 8, so that every bucket
begins on a whole byte: slots[k+1] = slots[k] + (bucket length rounded up to 8). Slot p's code takes the bits
[p·b, (p+1)·b) of the code region, least significant bit first; slots between buckets hold zero, and the last
bucket ends at its last byte.
"""

from __future__ import annotations

import numpy as np

WEYL = 0x9E3779B9
MIX1, MIX2 = 0x7FEB352D, 0x846CA68B
LIFT = np.float32(2.0**100)  # brings a bucket of tiny values into range, exactly
DROP = np.float32(2.0**-100)
TINY = np.float32(2.0**-90)
SEGMENT = 4096  # elements that a kernel takes at a time


def hash32(key: int, counters: np.ndarray) -> np.ndarray:
    """One 32-bit hash per counter (uint32): lowbias32 over a Weyl sequence, the key's high word mixed in.

    A bijection of the counter for each key, so that the hashes of distinct counters differ.
    """
    h = np.uint32(key & 0xFFFFFFFF) + counters.astype(np.uint32) * np.uint32(WEYL)
    h ^= h >> np.uint32(16)
    h *= np.uint32(MIX1)
    h ^= np.uint32(key >> 32)
    h ^= h >> np.uint32(15)
    h *= np.uint32(MIX2)
    h ^= h >> np.uint32(16)
    return h


def uniform16(key: int, slots: np.ndarray) -> np.ndarray:
    """Uniform integers in [0, 65536) for the given slots: one hash serves an even slot (low) and the next."""
    h = hash32(key, slots >> 1)
    return ((h >> (16 * (slots & 1)).astype(np.uint32)) & np.uint32(0xFFFF)).astype(np.int32)


def scale_of(bucket: np.ndarray, l2: bool) -> np.float32:
    """‖v‖_∞, or ‖v‖₂ summed in float64 and capped at the largest float32.

    The order of the sum is part of the definition: segments of SEGMENT elements one after the other; within
    one, element i goes to lane i mod 8, and the lanes are added in order.
    """
    if not l2:
        return np.max(np.abs(bucket))
    total = 0.0
    for begin in range(0, bucket.size, SEGMENT):
        part = bucket[begin : begin + SEGMENT].astype(np.float64)
        squares = np.zeros((-(-part.size // 8), 8))
        squares.ravel()[: part.size] = part**2
        segment = 0.0
        for lane in np.add.reduce(squares, axis=0):
            segment += lane
        total += segment
    return np.float32(min(np.sqrt(total), np.finfo(np.float32).max))


def levels_of(bucket: np.ndarray, scale: np.float32, s: int, draws: np.ndarray) -> np.ndarray:
    """Stochastic rounding of s·v/scale to integers in [-s, s] (int32). E[level] = s·v/scale within 2^-17.

    inv = s·65536/scale; Y = rint(v·inv) held to ±s·65536; level = (Y + draw) >> 16.
    """
    if scale == 0:
        return np.zeros(bucket.size, dtype=np.int32)
    lift = LIFT if scale < TINY else np.float32(1)
    inv = np.float32(s * 65536) / (scale * lift)
    limit = np.float32(s * 65536)
    y = np.rint(np.clip(bucket * lift * inv, -limit, limit)).astype(np.int32)
    return (y + draws) >> 16


def signs_of(bucket: np.ndarray, scale: np.float32, draws: np.ndarray) -> np.ndarray:
    """One bit: 1 (minus) with probability (1 − v/scale)/2, so that E[±scale] = v. Y as above with s = 1."""
    if scale == 0:
        return np.zeros(bucket.size, dtype=np.int32)
    lift = LIFT if scale < TINY else np.float32(1)
    inv = np.float32(65536) / (scale * lift)
    y = np.rint(np.clip(bucket * lift * inv, np.float32(-65536), np.float32(65536))).astype(np.int32)
    return (2 * draws + 1 > y + 65536).astype(np.int32)


def values_of(levels: np.ndarray, scale: np.float32, s: int) -> np.ndarray:
    """level · (scale/s), float32."""
    if scale < TINY:
        return levels.astype(np.float32) * (scale * LIFT / np.float32(s)) * DROP
    return levels.astype(np.float32) * (scale / np.float32(s))


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (uint, `bits` each) as a little-endian bit stream, uint8."""
    planes = (codes[:, None].astype(np.uint32) >> np.arange(bits, dtype=np.uint32)) & np.uint32(1)
    return np.packbits(planes.astype(np.uint8).ravel(), bitorder="little")


def unpack(data: np.ndarray, count: int, bits: int) -> np.ndarray:
    """The first `count` codes of a bit stream, uint32."""
    planes = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    return (planes.astype(np.uint32) << np.arange(bits, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)


def encode_qsgd(x: np.ndarray, starts: np.ndarray, bits: int, s: int, l2: bool, key: int) -> np.ndarray:
    """The whole payload of a vector: scales, then codes. x: (d,) float32, finite."""
    buckets = len(starts) - 1
    slots = slot_starts(starts)
    codes = np.zeros(slots[-1], dtype=np.int64)
    scales = np.zeros(buckets, dtype=np.float32)
    for k in range(buckets):
        bucket = x[starts[k] : starts[k + 1]]
        where = np.arange(slots[k], slots[k] + bucket.size)
        scales[k] = scale_of(bucket, l2)
        draws = uniform16(key, where)
        if bits == 1:
            codes[where] = signs_of(bucket, scales[k], draws)
        else:
            codes[where] = levels_of(bucket, scales[k], s, draws)
    length = starts[-1] - starts[-2]
    stream = pack((codes & ((1 << bits) - 1))[: slots[-2] + length], bits)
    return np.concatenate([scales.view(np.uint8), stream])


def decode_qsgd(payload: np.ndarray, starts: np.ndarray, bits: int, s: int) -> np.ndarray:
    """Q(x), (d,) float32."""
    buckets = len(starts) - 1
    slots = slot_starts(starts)
    scales = payload[: 4 * buckets].copy().view("<f4")
    length = starts[-1] - starts[-2]
    codes = unpack(payload[4 * buckets :], slots[-2] + length, bits).astype(np.int64)
    out = np.empty(starts[-1], dtype=np.float32)
    for k in range(buckets):
        n = starts[k + 1] - starts[k]
        code = codes[slots[k] : slots[k] + n]
        levels = 1 - 2 * code if bits == 1 else np.where(code >> (bits - 1), code - (1 << bits), code)
        out[starts[k] : starts[k + 1]] = values_of(levels, scales[k], s)
    return out


def slot_starts(starts: np.ndarray) -> np.ndarray:
    """Where each bucket's codes begin, in slots; one entry more than buckets."""
    lengths = -(-np.diff(starts) // 8) * 8
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
