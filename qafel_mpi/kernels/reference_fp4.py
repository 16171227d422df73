"""What is true of fp4: E2M1 codes in blocks with a small scale, as numpy says it plainly. FORMAT.md has the words.

MXFP4: OCP Microscaling Formats (MX) 1.0, blocks of 32 with a power of two. NVFP4: NVIDIA, arXiv 2509.25149, blocks of
16 with an E4M3 number, and one float32 for all.
"""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.reference import FLOAT_MAX, uniform16

MX, NV = 0, 1
BLOCK = {MX: 32, NV: 16}  # elements that share a scale
HEAD = {MX: 0, NV: 4}  # bytes before the scales
TWICE = (0, 1, 2, 3, 4, 6, 8, 12)  # by a code's last three bits, twice the magnitude
LARGEST_E8M0 = 252  # 2^125: 6 times that is a float32
LARGEST_E4M3 = 126  # 448
RANGE = np.float32(6 * 448)  # of NVFP4's blocks, in units of the float32
LARGEST_UNIT = np.float32(float(FLOAT_MAX) / 2688 * (1 - 2.0**-20))
LEAST = np.float32(2.0**-100)  # below this largest magnitude NVFP4 sends zeros
# y above a bound, or at it where the bound is a tie whose even neighbour is above: the code's last three bits.
BOUNDS = ((0.25, False), (0.75, True), (1.25, False), (1.75, True), (2.5, False), (3.5, True), (5.0, False))


def fp4_bytes(d: int, kind: int) -> int:
    """Bytes of a payload of d elements."""
    return HEAD[kind] + -(-d // BLOCK[kind]) + -(-d // 2)


def e8m0(top: np.ndarray, nearest: bool) -> np.ndarray:
    """Scale codes, 127 + exponent, of blocks' largest magnitudes. nearest: ⌊log2 top⌋ − 2, as OCP has it, with which
    what is above 6 is held to 6; else the least power of two with which nothing is. top: (blocks,) float32."""
    pattern = top.view(np.int32)
    up = 0 if nearest else ((pattern & 0x7FFFFF) > 0x400000).astype(np.int32)
    return np.clip((pattern >> 23) - 2 + up, 0, LARGEST_E8M0).astype(np.uint8)


def e4m3(s: np.ndarray, nearest: bool) -> np.ndarray:
    """Codes of numbers from 0 to 448, float32: the nearest (ties to even), or the least that is not below."""
    pattern = s.view(np.int32)
    add = 0x7FFFF + ((pattern >> 20) & 1) if nearest else 0xFFFFF
    normal = ((pattern + add) >> 20) - (120 << 3)
    small = (np.rint(s * np.float32(512)) if nearest else np.ceil(s * np.float32(512))).astype(np.int32)
    return np.minimum(np.where(s < np.float32(2.0**-6), small, normal), LARGEST_E4M3).astype(np.uint8)


def value_of_e4m3(code: np.ndarray) -> np.ndarray:
    """float32, exact."""
    c = code.astype(np.int32)
    return np.where(c < 8, c / 512, (8 + (c & 7)) * 2.0 ** ((c >> 3) - 10)).astype(np.float32)


def halves(scales: np.ndarray, kind: int, unit: np.float32) -> np.ndarray:
    """Half of what each block's scale stands for, float32: a value is a number of TWICE times that."""
    if kind == MX:
        return np.ldexp(np.float32(1), scales.astype(np.int32) - 128).astype(np.float32)
    return value_of_e4m3(scales) * unit * np.float32(0.5)


def magnitude_codes(y: np.ndarray, draw: np.ndarray | None) -> np.ndarray:
    """Codes of 0 <= y <= 6, float32. draw: uniform 16-bit integers for stochastic rounding; None: to nearest."""
    if draw is None:
        bounds = [y >= b if at else y > b for b, at in BOUNDS]
        return np.sum(bounds, axis=0).astype(np.int32)
    n = np.rint(y * np.float32(2.0**17)).astype(np.int32)
    more = (n >= 1 << 18).astype(np.int32) + (n >= 1 << 19)
    return ((n + (draw.astype(np.int32) << more)) >> (16 + more)) + 2 * more


def encode_fp4(x: np.ndarray, kind: int, nearest: bool, key: int) -> np.ndarray:
    """The payload, uint8, of x, finite."""
    block, d = BLOCK[kind], x.size
    v = np.zeros(-(-d // block) * block, dtype=np.float32)
    v[:d] = x
    rows = v.reshape(-1, block)
    top = np.abs(rows).max(axis=1)
    head = b""
    if kind == MX:
        scales = e8m0(top, nearest)
        inverse = np.ldexp(np.float32(1), 127 - scales.astype(np.int32)).astype(np.float32)
    else:
        unit = min(np.float32(top.max() / RANGE), LARGEST_UNIT)
        unit = np.float32(0) if top.max() < LEAST else unit
        with np.errstate(divide="ignore", invalid="ignore"):
            wanted = np.where(unit > 0, (top / np.float32(6)) / unit, np.float32(0)).astype(np.float32)
            scales = e4m3(wanted, nearest)
            inverse = np.where(scales > 0, np.float32(1) / (value_of_e4m3(scales) * unit), np.float32(0))
        head = np.float32(unit).tobytes()
    y = np.minimum(np.abs(rows) * inverse.astype(np.float32)[:, None], np.float32(6)).reshape(-1)
    draw = None if nearest else uniform16(key, np.arange(v.size))
    codes = magnitude_codes(y, draw) | (np.signbit(v).astype(np.int32) << 3)
    codes[d:] = 0
    packed = (codes[0::2] | (codes[1::2] << 4)).astype(np.uint8)
    payload = np.concatenate((np.frombuffer(head, np.uint8), scales, packed[: -(-d // 2)]))
    return payload.astype(np.uint8)


def decode_fp4(payload: np.ndarray, d: int, kind: int) -> np.ndarray:
    """(d,) float32."""
    blocks = -(-d // BLOCK[kind])
    unit = payload[:4].copy().view("<f4")[0] if kind == NV else np.float32(1)
    scales = payload[HEAD[kind] : HEAD[kind] + blocks]
    bytes_ = payload[HEAD[kind] + blocks :]
    codes = np.stack((bytes_ & 15, bytes_ >> 4), axis=1).reshape(-1)[:d]
    twice = np.array(TWICE, dtype=np.float32)[codes & 7]
    half = np.repeat(halves(scales, kind, unit), BLOCK[kind])[:d]
    return np.where(codes & 8, -twice, twice) * half
