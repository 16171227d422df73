"""eden's kernels in Triton: one program a block of sixteen buckets. The bytes of reference.py.

All sums are of integers, so that their order does not matter. Compiled without fusing products and sums, and with
divisions and roots that round correctly. TRITON_INTERPRET=1 runs them on the CPU, in the tests.

No `from __future__ import annotations` here: Triton reads the types of scalar arguments from the annotations.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from qafel_mpi.kernels import reference
from qafel_mpi.kernels.blocks import LANES, Block, Blocks
from qafel_mpi.kernels.triton.buckets import mix
from qafel_mpi.kernels.triton.packing import INF_BITS, MAGNITUDE, nearest

_LANES, _BITS, _UNIT = (
    tl.constexpr(LANES),
    tl.constexpr(reference.EDEN_BITS),
    tl.constexpr(reference.EDEN_UNIT),
)
_LEAST = tl.constexpr(float(reference.EDEN_LEAST))
_SECOND = tl.constexpr(reference.SECOND)


@triton.jit
def _hadamard(z, m: tl.constexpr, half: tl.constexpr):
    """reference.hadamard along the positions, from stages `half` apart on. z: (m · LANES,)."""
    if half == 0:
        return z
    else:
        pairs = tl.permute(tl.reshape(z, (m // (2 * half), 2, half * _LANES)), (0, 2, 1))
        upper, lower = tl.split(pairs)
        both = tl.permute(tl.join(upper + lower, upper - lower), (0, 2, 1))
        return _hadamard(tl.reshape(both, (m * _LANES,)), m, half // 2)


@triton.jit
def _flipped(z, position, first, k0, k1):
    """± z, by the hash of the position. position, lane: of each element."""
    lane = tl.arange(0, z.numel) % _LANES
    h = mix(((first + position) >> 1).to(tl.uint32), k0, k1)
    bit = (h >> (16 * (position & 1) + lane).to(tl.uint32)) & 1
    return tl.where(bit == 1, -z, z)


@triton.jit
def _flipped_again(z, position, first, k0, k1):
    """The second rotation's signs."""
    lane = tl.arange(0, z.numel) % _LANES
    h = mix(((first + position) >> 1).to(tl.uint32) + _SECOND, k0, k1)
    bit = (h >> (16 * (position & 1) + lane).to(tl.uint32)) & 1
    return tl.where(bit == 1, -z, z)


@triton.jit
def _level(size, BITS: tl.constexpr):
    """The level of each magnitude, from 0 to 2^(BITS-1) - 1."""
    if BITS == 1:
        return size * 0 + 1
    elif BITS == 2:
        return tl.where(size == 0, 3, 10)
    elif BITS == 3:
        low = tl.where(size == 0, 13, 40)
        return tl.where(size < 2, low, tl.where(size == 2, 71, 114))
    else:
        first = tl.where(size < 2, tl.where(size == 0, 6, 18), tl.where(size == 2, 30, 43))
        second = tl.where(size < 6, tl.where(size == 4, 58, 74), tl.where(size == 6, 95, 126))
        return tl.where(size < 4, first, second)


@triton.jit
def _size(z, BITS: tl.constexpr):
    """The magnitude's number: how many cuts lie below it. z >= 0."""
    size = z * 0
    if BITS == 2:
        size += (z > 491).to(tl.int32)
    if BITS == 3:
        size += (z > 250).to(tl.int32) + (z > 525).to(tl.int32) + (z > 874).to(tl.int32)
    if BITS == 4:
        size += (z > 129).to(tl.int32) + (z > 261).to(tl.int32) + (z > 400).to(tl.int32)
        size += (z > 550).to(tl.int32) + (z > 719).to(tl.int32) + (z > 922).to(tl.int32)
        size += (z > 1200).to(tl.int32)
    return size


@triton.jit
def _power(exponent):
    """2^exponent, float32. exponent: int32, from -126 to 127."""
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["k0", "k1"])
def encode_kernel(
    x,
    x_hat,
    payload,
    finite,
    begin,
    elements,
    first_bucket,
    first_position,
    codes_at,
    k0: "u32",  # type: ignore[name-defined]  # noqa: F821
    k1: "u32",  # type: ignore[name-defined]  # noqa: F821
    most: "fp64",  # type: ignore[name-defined]  # noqa: F821
    W: tl.constexpr,
    M: tl.constexpr,
    SHIFT: tl.constexpr,
    BITS: tl.constexpr,
    LEAST_SQUARES: tl.constexpr,
    ROTATIONS: tl.constexpr,
    STEP: tl.constexpr,
):
    """Scales and codes of one block of W buckets of M = 2^SHIFT elements; finite[0] = 0 where it is not.

    The arguments are the first block's, of blocks behind each other; `elements` are in each of them. STEP: of x − x̂.
    """
    g = tl.program_id(0).to(tl.int64)
    here, left = begin + g * (W * M), elements
    first = first_position + g * M
    i = tl.arange(0, M * _LANES)
    position, lane = i // _LANES, i % _LANES
    at = position * W + lane
    inside = (lane < W) & (at < left)
    v = tl.load(x + here + at, mask=inside, other=0)
    if STEP:
        v = v - tl.load(x_hat + here + at, mask=inside, other=0)
    v = v.to(tl.float32)
    top = tl.max(v.to(tl.int32, bitcast=True) & MAGNITUDE, axis=0)
    tl.store(finite, 0, mask=top >= INF_BITS)
    nothing = top.to(tl.float32, bitcast=True) < _LEAST
    exponent = tl.where(nothing | (top >= INF_BITS), 0, (top >> 23) - 127)
    z = nearest(v * _power(-exponent + _BITS))
    z = _flipped(z, position, first, k0, k1)
    if ROTATIONS == 2:
        z = (_hadamard(z, M, M // 2) + (1 << (SHIFT - 1))) >> SHIFT
        z = _flipped_again(z, position, first, k0, k1)
    wide = tl.reshape(z.to(tl.int64), (M, _LANES))
    norm = tl.sqrt(tl.sum(wide * wide, axis=0).to(tl.float64))
    unit = tl.full((_LANES,), _UNIT, tl.float64)
    one = tl.full((_LANES,), 1, tl.float64)
    inverse = (unit / tl.maximum(norm, one)).to(tl.float32)
    z = _hadamard(z, M, M // 2)
    z = tl.reshape(nearest(tl.reshape(z, (M, _LANES)).to(tl.float32) * inverse[None, :]), (M * _LANES,))
    magnitude = tl.where(z < 0, -z, z)
    size = _size(magnitude, BITS)
    level = _level(size, BITS)
    total = tl.sum(tl.reshape(magnitude * level, (M, _LANES)), axis=0).to(tl.float64)
    power = _power(exponent - _BITS).to(tl.float64)
    if LEAST_SQUARES:
        square = tl.sum(tl.reshape(level * level, (M, _LANES)), axis=0).to(tl.int64)
        scale = total * norm / (square * (_UNIT * M)).to(tl.float64) * power
    else:
        scale = unit * norm / tl.maximum(total, one) * power
    scale = tl.minimum(scale, most + scale * 0).to(tl.float32)
    bucket = tl.arange(0, _LANES)
    scales = (payload + 4 * (first_bucket + g * W)).to(tl.pointer_type(tl.float32))
    tl.store(scales + bucket, tl.where(nothing, 0.0, scale), mask=bucket < W)
    code = tl.where(nothing, 0, size | ((z < 0).to(tl.int32) << (BITS - 1)))
    # Eight positions of a bucket make BITS bytes, which lie W apart.
    eight = tl.reshape(code, (M // 8, 8, _LANES))
    shift = BITS * tl.arange(0, 8)
    word = tl.sum(eight << shift[None, :, None], axis=1)
    row = tl.arange(0, M // 8)[:, None]
    out = payload + codes_at + g * (W * M * BITS // 8)
    for j in tl.static_range(BITS):
        byte = ((word >> (8 * j)) & 255).to(tl.uint8)
        tl.store(out + (row * BITS + j) * W + bucket[None, :], byte, mask=bucket[None, :] < W)


@triton.jit
def _signed_levels(codes, W: tl.constexpr, M: tl.constexpr, BITS: tl.constexpr):
    """(M · LANES,) int32, from a block's codes."""
    i = tl.arange(0, M * _LANES)
    position, lane = i // _LANES, i % _LANES
    bit = position * BITS
    inside = lane < W
    at = codes + (bit >> 3) * W + lane
    word = tl.load(at, mask=inside, other=0).to(tl.int32)
    if BITS == 3:  # a code may cross into the next byte
        word |= tl.load(at + W, mask=inside & ((bit & 7) > 5), other=0).to(tl.int32) << 8
    code = (word >> (bit & 7)) & ((1 << BITS) - 1)
    half: tl.constexpr = 1 << (BITS - 1)
    level = _level(code & (half - 1), BITS)
    return tl.where(code >= half, -level, level)


@triton.jit(do_not_specialize=["k0", "k1"])
def decode_kernel(
    payload,
    acc,
    begin,
    elements,
    first_bucket,
    first_position,
    codes_at,
    k0: "u32",  # type: ignore[name-defined]  # noqa: F821
    k1: "u32",  # type: ignore[name-defined]  # noqa: F821
    weight: "fp64",  # type: ignore[name-defined]  # noqa: F821
    W: tl.constexpr,
    M: tl.constexpr,
    BITS: tl.constexpr,
    ROTATIONS: tl.constexpr,
    ASSIGN: tl.constexpr,
):
    """acc += weight · Q(x), or acc = Q(x), for one block. ROTATIONS = 0: in the rotated basis."""
    g = tl.program_id(0).to(tl.int64)
    here, first = begin + g * (W * M), first_position + g * M
    i = tl.arange(0, M * _LANES)
    position, lane = i // _LANES, i % _LANES
    z = _signed_levels(payload + codes_at + g * (W * M * BITS // 8), W, M, BITS)
    if ROTATIONS > 0:
        z = _hadamard(z, M, M // 2)
        if ROTATIONS == 2:
            z = _hadamard(_flipped_again(z, position, first, k0, k1), M, M // 2)
        z = _flipped(z, position, first, k0, k1)
    scales = (payload + 4 * (first_bucket + g * W)).to(tl.pointer_type(tl.float32))
    inside = lane < W
    kind = acc.dtype.element_ty
    scale = tl.load(scales + lane, mask=inside, other=0).to(kind)
    value = z.to(kind) * (tl.full((), weight, tl.float64).to(kind) * scale)
    at = position * W + lane
    inside = inside & (at < elements)
    if not ASSIGN:
        value = tl.load(acc + here + at, mask=inside, other=0) + value
    tl.store(acc + here + at, value, mask=inside)


class FusedEden:
    """As numba.eden.EdenKernels, on tensors of one device: x, x_hat, acc (d,), payload (bytes,) uint8."""

    def __init__(
        self, blocks: Blocks, *, bits: int, rotations: int, least_squares: bool, device: torch.device
    ):
        self.blocks, self.bits, self.rotations, self.least_squares = blocks, bits, rotations, least_squares
        self._finite = torch.ones(1, dtype=torch.int32, device=device)
        codes_at, m = 4 * blocks.buckets, blocks.bucket
        self._launches: list[
            tuple[int, Block, int]
        ] = []  # how many of a kind, the first of them, where its codes are
        if blocks.whole:
            self._launches.append((blocks.whole, Block(0, LANES * m, LANES, m, 0, 0), codes_at))
        if blocks.last is not None:
            self._launches.append((1, blocks.last, codes_at + 2 * m * bits * blocks.whole))

    def encode(self, x: Tensor, payload: Tensor, key: int) -> Tensor:
        """Scales and codes into payload. Returns whether x is finite in float32, an int32 tensor of one.

        The same one each time: who finds 0 there sets it to 1 again.
        """
        return self._encode(x, x, payload, key, step=False)

    def step(self, x: Tensor, x_hat: Tensor, payload: Tensor, key: int) -> Tensor:
        """payload = Q(x − x̂); x̂ += decode(payload). Returns like encode."""
        finite = self._encode(x, x_hat, payload, key, step=True)
        self.decode(payload, x_hat, 1.0, assign=False, key=key)
        return finite

    def decode(self, payload: Tensor, acc: Tensor, weight: float, *, assign: bool, key: int) -> None:
        """acc += weight · Q(x), or acc = Q(x)."""
        for count, block, codes_at in self._launches:
            decode_kernel[(count,)](
                payload, acc, block.begin, block.elements, block.first_bucket, block.first_position, codes_at,
                key & 0xFFFFFFFF, key >> 32, weight, W=block.lanes, M=block.bucket, BITS=self.bits,
                ROTATIONS=self.rotations, ASSIGN=assign, **_options(block.bucket),
            )  # fmt: skip

    def sum(self, payload: Tensor, sums: Tensor, weight: float) -> None:
        """sums += weight · scale · level, (padded d,)."""
        for count, block, codes_at in self._launches:
            decode_kernel[(count,)](
                payload, sums, block.begin, block.padded, block.first_bucket, block.first_position, codes_at,
                0, 0, weight, W=block.lanes, M=block.bucket, BITS=self.bits, ROTATIONS=0, ASSIGN=False,
                **_options(block.bucket),
            )  # fmt: skip

    def _encode(self, x: Tensor, x_hat: Tensor, payload: Tensor, key: int, *, step: bool) -> Tensor:
        for count, block, codes_at in self._launches:
            m = block.bucket
            encode_kernel[(count,)](
                x, x_hat, payload, self._finite, block.begin, block.elements, block.first_bucket,
                block.first_position, codes_at, key & 0xFFFFFFFF, key >> 32,
                reference.eden_largest_scale(self.bits, m, self.rotations), W=block.lanes, M=m,
                SHIFT=m.bit_length() - 1, BITS=self.bits, LEAST_SQUARES=self.least_squares,
                ROTATIONS=self.rotations, STEP=step, **_options(m),
            )  # fmt: skip
        return self._finite


def _options(m: int) -> dict[str, object]:
    return {"enable_fp_fusion": False, "num_warps": min(32, max(1, LANES * m // 1024))}
