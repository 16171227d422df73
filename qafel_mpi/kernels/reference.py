"""The kernels as plain numpy formulas: slow, short, and the definition of the bytes that the fast ones give.

Buckets and slots. A vector is cut into buckets, each with one float32 scale. Bucket k holds the elements
[starts[k], starts[k+1]) and its codes take the slots from slots[k], a multiple of 8, so that every bucket
begins on a whole byte: slots[k+1] = slots[k] + (bucket length rounded up to 8). Slot p's code takes the bits
[p·b, (p+1)·b) of the code region, least significant bit first; slots between buckets hold zero, and the last
bucket ends at its last byte.

All arithmetic is IEEE 754 with one rounding an operation (no fused multiply-add), in float32 where nothing
else is said; rint rounds to nearest, ties to even.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from qafel_mpi.kernels.blocks import Block, Blocks

WEYL = 0x9E3779B9
MIX1, MIX2 = 0x7FEB352D, 0x846CA68B
LIFT = np.float32(2.0**100)  # brings a bucket of tiny values into range, exactly
DROP = np.float32(2.0**-100)
TINY = np.float32(2.0**-90)
SHRINK = np.float32(1 - 2.0**-24)  # times a positive float: the next smaller float
FLOAT_MAX = np.finfo(np.float32).max
SEGMENT = 4096  # elements that a kernel takes at a time
LINF, L2, MEAN = 0, 1, 2  # what a bucket's scale is: ‖v‖_∞, ‖v‖₂, ‖v‖₁/m

# eden: by the bits, the positive levels of Lloyd and Max for a standard Gaussian as whole numbers (of 1, 6.6242, 53.0
# and 46.1 to the standard deviation), and the cuts between them, of EDEN_UNIT to the standard deviation.
EDEN_UNIT = 500  # the largest value of a rotated bucket, sqrt(4096) standard deviations, stays below 2^15
EDEN_LEVELS = {1: (1,), 2: (3, 10), 3: (13, 40, 71, 114), 4: (6, 18, 30, 43, 58, 74, 95, 126)}
EDEN_CUTS: dict[int, tuple[int, ...]] = {
    1: (),
    2: (491,),
    3: (250, 525, 874),
    4: (129, 261, 400, 550, 719, 922, 1200),
}
EDEN_BITS = 17  # a block's values are whole numbers below 2^18, and its largest one is 2^17 or more
EDEN_LEAST = np.float32(2.0**-100)  # a block with nothing larger is sent as zeros
SECOND = 1 << 31  # where the counters of the second rotation's signs begin


def hash32(key: int, counters: np.ndarray) -> np.ndarray:
    """One 32-bit hash per counter (uint32): lowbias32 of a Weyl sequence XOR the key's high word.

    A bijection of the counter for each key, so that the hashes of distinct counters differ. The high word goes in
    before both multiplications: with one left, streams whose Weyl sequences overlap are correlated.
    """
    h = np.uint32(key & 0xFFFFFFFF) + counters.astype(np.uint32) * np.uint32(WEYL)
    h ^= np.uint32(key >> 32)
    h ^= h >> np.uint32(16)
    h *= np.uint32(MIX1)
    h ^= h >> np.uint32(15)
    h *= np.uint32(MIX2)
    h ^= h >> np.uint32(16)
    return h


def uniform16(key: int, slots: np.ndarray) -> np.ndarray:
    """Uniform integers in [0, 65536) for the given slots: one hash serves an even slot (low) and the next."""
    h = hash32(key, slots >> 1)
    return ((h >> (16 * (slots & 1)).astype(np.uint32)) & np.uint32(0xFFFF)).astype(np.int32)


def tree_sum(values: np.ndarray) -> float:
    """Sum of float64 values in a fixed order that vector units can follow.

    Padded with zeros to a power of two; then the upper half is added to the lower until one value is left.
    """
    sums = np.zeros(1 << int(values.size - 1).bit_length())
    sums[: values.size] = values
    while sums.size > 1:
        sums = sums[: sums.size // 2] + sums[sums.size // 2 :]
    return float(sums[0])


def scale_of(bucket: np.ndarray, kind: int) -> np.float32:
    """The bucket's scale. Sums are in float64: a tree_sum for each SEGMENT elements, then a tree_sum of those."""
    if kind == LINF:
        return np.max(np.abs(bucket))
    segments = [bucket[i : i + SEGMENT].astype(np.float64) for i in range(0, bucket.size, SEGMENT)]
    total = tree_sum(np.array([tree_sum(v * v if kind == L2 else np.abs(v)) for v in segments]))
    value = np.sqrt(total) if kind == L2 else total / bucket.size
    return np.float32(min(value, FLOAT_MAX))


def scaled(bucket: np.ndarray, scale: np.float32, s: int) -> np.ndarray:
    """Y = rint(v · s·65536/scale) held to ±s·65536 (int32): the level in 16 bits of fraction."""
    lift = LIFT if scale < TINY else np.float32(1)
    limit = np.float32(s * 65536)
    inverse = limit / (scale * lift)
    return np.rint(np.clip(bucket * lift * inverse, -limit, limit)).astype(np.int32)


def levels_of(bucket: np.ndarray, scale: np.float32, s: int, draws: np.ndarray) -> np.ndarray:
    """Stochastic rounding of s·v/scale to integers in [-s, s]: (Y + draw) >> 16. Its bias is at most 2^-17."""
    if scale == 0:
        return np.zeros(bucket.size, dtype=np.int32)
    return (scaled(bucket, scale, s) + draws) >> 16


def signs_of(bucket: np.ndarray, scale: np.float32, draws: np.ndarray) -> np.ndarray:
    """One bit, 1 for minus, with probability (1 − v/scale)/2, so that E[±scale] = v."""
    if scale == 0:
        return np.zeros(bucket.size, dtype=np.int32)
    return (2 * draws + 1 > scaled(bucket, scale, 1) + 65536).astype(np.int32)


def unit_of(scale: np.float32, s: int) -> tuple[np.float32, np.float32]:
    """(unit, drop): level l stands for l · unit · drop. s · unit is finite whatever the scale."""
    if scale < TINY:
        return scale * LIFT / np.float32(s), DROP
    unit = scale / np.float32(s)
    with np.errstate(over="ignore"):
        return (unit if np.float32(s) * unit <= FLOAT_MAX else unit * SHRINK), np.float32(1)


def contribution(
    levels: np.ndarray, unit: np.float32, drop: np.float32, weight: float, dtype: type
) -> np.ndarray:
    """What accumulate adds: level · (weight · unit) · drop in the accumulator's type. Decoding has weight 1."""
    return levels.astype(dtype) * (dtype(weight) * dtype(unit)) * dtype(drop)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (the low `bits` bits of each) as a little-endian bit stream, uint8."""
    planes = (codes[:, None].astype(np.uint32) >> np.arange(bits, dtype=np.uint32)) & np.uint32(1)
    return np.packbits(planes.astype(np.uint8).ravel(), bitorder="little")


def unpack(data: np.ndarray, count: int, bits: int) -> np.ndarray:
    """The first `count` codes of a bit stream, uint32."""
    planes = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    return (planes.astype(np.uint32) << np.arange(bits, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)


def slot_starts(starts: np.ndarray) -> np.ndarray:
    """Where each bucket's codes begin, in slots; one entry more than buckets."""
    lengths = -(-np.diff(starts) // 8) * 8
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def encode_qsgd(x: np.ndarray, starts: np.ndarray, bits: int, s: int, kind: int, key: int) -> np.ndarray:
    """The payload of a vector, qsgd or sign: scales, then codes. x: (d,) float32, finite.

    kind MEAN sends the plain sign (1: negative) and draws nothing.
    """
    slots = slot_starts(starts)
    codes = np.zeros(slots[-1], dtype=np.int64)
    scales = np.zeros(len(starts) - 1, dtype="<f4")
    for k in range(len(scales)):
        bucket = x[starts[k] : starts[k + 1]]
        where = np.arange(slots[k], slots[k] + bucket.size)
        scales[k] = scale_of(bucket, kind)
        if kind == MEAN:
            codes[where] = bucket < 0
        elif bits == 1:
            codes[where] = signs_of(bucket, scales[k], uniform16(key, where))
        else:
            codes[where] = levels_of(bucket, scales[k], s, uniform16(key, where))
    last = slots[-2] + starts[-1] - starts[-2]
    return np.concatenate([scales.view(np.uint8), pack(codes[:last], bits)])


def decode_qsgd(
    payload: np.ndarray,
    starts: np.ndarray,
    bits: int,
    s: int,
    *,
    weight: float = 1.0,
    dtype: type = np.float32,
) -> np.ndarray:
    """weight · Q(x), (d,) of dtype: out for decoding, and what accumulate adds."""
    slots = slot_starts(starts)
    buckets = len(starts) - 1
    scales = np.frombuffer(payload[: 4 * buckets].tobytes(), dtype="<f4")
    codes = unpack(payload[4 * buckets :], slots[-2] + starts[-1] - starts[-2], bits).astype(np.int64)
    out = np.empty(starts[-1], dtype=dtype)
    for k in range(buckets):
        code = codes[slots[k] : slots[k] + starts[k + 1] - starts[k]]
        levels = 1 - 2 * code if bits == 1 else np.where(code >> (bits - 1), code - (1 << bits), code)
        out[starts[k] : starts[k + 1]] = contribution(levels, *unit_of(scales[k], s), weight, dtype)
    return out


def hadamard(values: np.ndarray) -> np.ndarray:
    """H · values, H the Hadamard matrix of ±1 of Sylvester's order. values: (m, lanes), m a power of two.

    Sums and differences of rows m/2 apart, then m/4, and so on: the order in which floats are rounded.
    """
    m, lanes = values.shape
    half = m // 2
    while half:
        pairs = values.reshape(-1, 2, half, lanes)
        upper, lower = pairs[:, 0], pairs[:, 1]
        values = np.stack([upper + lower, upper - lower], axis=1).reshape(m, lanes)
        half //= 2
    return values


def signs_of_rotation(key: int, block: Block, rotation: int = 0) -> np.ndarray:
    """±1, (positions, lanes): lane l at position p has the bit 16·(p mod 2) + l of hash ⌊p/2⌋, 1 for minus."""
    position = np.arange(block.first_position, block.first_position + block.bucket)
    words = hash32(key, (position >> 1) + SECOND * rotation)
    bit = (16 * (position & 1))[:, None] + np.arange(block.lanes)
    return 1 - 2 * ((words[:, None] >> bit.astype(np.uint32)) & np.uint32(1)).astype(np.int64)


def as_rows(x: np.ndarray, block: Block) -> np.ndarray:
    """A block's elements, (positions, lanes), with zeros behind them."""
    rows = np.zeros(block.padded, dtype=x.dtype)
    rows[: block.elements] = x[block.begin : block.begin + block.elements]
    return rows.reshape(block.bucket, block.lanes)


def encode_eden(
    x: np.ndarray, blocks: Blocks, bits: int, key: int, *, rotations: int = 1, least_squares: bool = False
) -> np.ndarray:
    """eden's payload of a vector: scales, then codes. x: (d,) float32, finite. All sums are exact, of integers."""
    scales, codes = [], []
    levels = np.array(EDEN_LEVELS[bits])
    for block in blocks:
        v, m = as_rows(x, block), block.bucket
        top = np.abs(v).max()
        if top < EDEN_LEAST:
            scales.append(np.zeros(block.lanes, dtype="<f4"))
            codes.append(np.zeros(block.padded * bits // 8, dtype=np.uint8))
            continue
        exponent = math.frexp(top)[1] - 1  # 2^exponent <= top < 2^(exponent + 1)
        z = np.rint(v * np.float32(2.0 ** (EDEN_BITS - exponent))).astype(np.int64)
        z *= signs_of_rotation(key, block)
        if rotations == 2:
            shift = m.bit_length() - 1
            z = (hadamard(z) + (1 << (shift - 1))) >> shift
            z *= signs_of_rotation(key, block, 1)
        norms = np.sqrt((z * z).sum(axis=0).astype(np.float64))  # of each bucket; the sum is exact
        inverse = (EDEN_UNIT / np.maximum(norms, 1)).astype(np.float32)
        z = np.rint(hadamard(z).astype(np.float32) * inverse).astype(
            np.int64
        )  # EDEN_UNIT: one standard deviation
        size = (np.abs(z)[None] > np.array(EDEN_CUTS[bits])[:, None, None]).sum(axis=0)
        sums, squares = (np.abs(z) * levels[size]).sum(axis=0), (levels[size] ** 2).sum(axis=0)
        unit = 2.0 ** (exponent - EDEN_BITS)
        if least_squares:
            scale = sums * norms / (EDEN_UNIT * m * squares) * unit
        else:
            scale = EDEN_UNIT * norms / np.maximum(sums, 1) * unit
        scales.append(np.minimum(scale, eden_largest_scale(bits, m, rotations)).astype("<f4"))
        code = size | ((z < 0).astype(np.int64) << (bits - 1))
        streams = [pack(code[:, lane], bits) for lane in range(block.lanes)]
        codes.append(np.stack(streams, axis=1).ravel())  # their bytes in turns
    return np.concatenate([np.concatenate(scales).view(np.uint8), *codes])


def eden_largest_scale(bits: int, m: int, rotations: int) -> float:
    """A bucket's largest scale, a float32: no sum of its levels decodes to an infinity."""
    return float(np.float32(FLOAT_MAX / (2.0 * EDEN_LEVELS[bits][-1] * float(m) ** rotations)))


def decode_eden(
    payload: np.ndarray,
    blocks: Blocks,
    bits: int,
    key: int,
    *,
    rotations: int = 1,
    weight: float = 1.0,
    dtype: type = np.float32,
) -> np.ndarray:
    """weight · Q(x), (d,) of dtype: out for decoding, and what accumulate adds."""
    out: np.ndarray = np.empty(blocks.elements, dtype=dtype)
    for block, factors, levels in _eden_levels(payload, blocks, bits, weight, dtype):
        z = hadamard(levels)
        if rotations == 2:
            z = hadamard(z * signs_of_rotation(key, block, 1))
        values = (z * signs_of_rotation(key, block)).astype(dtype) * factors
        out[block.begin : block.begin + block.elements] = values.ravel()[: block.elements]
    return out


def decode_eden_rotated(
    payload: np.ndarray, blocks: Blocks, bits: int, *, weight: float = 1.0, dtype: type = np.float32
) -> np.ndarray:
    """weight · scale · level, (padded d,): what is added up in the rotated basis."""
    found = _eden_levels(payload, blocks, bits, weight, dtype)
    return np.concatenate([(levels.astype(dtype) * factors).ravel() for _, factors, levels in found])


def _eden_levels(
    payload: np.ndarray, blocks: Blocks, bits: int, weight: float, dtype: type
) -> Iterator[tuple[Block, np.ndarray, np.ndarray]]:
    """(block, factor of each bucket, signed levels (positions, lanes)) of each block."""
    scales = np.frombuffer(payload[: 4 * blocks.buckets].tobytes(), dtype="<f4")
    at = 4 * blocks.buckets
    for block in blocks:
        size = block.padded * bits // 8
        streams = payload[at : at + size].reshape(-1, block.lanes)
        at += size
        code = np.stack(
            [unpack(streams[:, lane].copy(), block.bucket, bits) for lane in range(block.lanes)], axis=1
        ).astype(np.int64)
        half = 1 << (bits - 1)
        levels = np.array(EDEN_LEVELS[bits])[code & (half - 1)] * np.where(code >= half, -1, 1)
        factors = dtype(weight) * scales[block.first_bucket : block.first_bucket + block.lanes].astype(dtype)
        yield block, factors, levels


def rotate_back(sums: np.ndarray, blocks: Blocks, key: int) -> np.ndarray:
    """D·H of each bucket of a vector in the rotated basis: (padded d,) -> (d,), in the type of the sums."""
    out: np.ndarray = np.empty(blocks.elements, dtype=sums.dtype)
    at = 0
    for block in blocks:
        rows = sums[at : at + block.padded].reshape(block.bucket, block.lanes)
        at += block.padded
        values = hadamard(rows) * signs_of_rotation(key, block).astype(sums.dtype)
        out[block.begin : block.begin + block.elements] = values.ravel()[: block.elements]
    return out
