"""The affine kernels in Triton: one program a segment. The bytes of affine.py.

Ranges and zero points are integers and float64, of which every operation rounds correctly; float32: buckets.py.
Where a bucket is longer than a segment its range is measured first. For 1 to 8 bits.

No `from __future__ import annotations` here: Triton reads the types of scalar arguments from the annotations.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from qafel_mpi.kernels import reference
from qafel_mpi.kernels.reference import SEGMENT
from qafel_mpi.kernels.triton.packing import (
    DROP,
    INF_BITS,
    LIFT,
    MAGNITUDE,
    TINY,
    load_codes,
    load_first,
    nearest,
    nearest64,
    store_codes,
    store_first,
)

# (top code − zero) · scale stays below the largest float32 by this much, as in affine.py.
_LARGEST = tl.constexpr(float(reference.FLOAT_MAX) * (1 - 2.0**-20))
_AT_ONCE = tl.constexpr(1024)  # segments whose ranges are put together in one step


@triton.jit
def _segment(table, g, ALIGN: tl.constexpr, BYTES: tl.constexpr):
    """(first element, elements, first byte in the payload, bucket). ALIGN divides the first, BYTES the third."""
    row = table + 4 * g
    begin, byte = tl.load(row), tl.load(row + 2)
    return tl.multiple_of(begin, ALIGN), tl.load(row + 1), tl.multiple_of(byte, BYTES), tl.load(row + 3)


@triton.jit
def _range(pattern):
    """Bit patterns, int32, of the (least, greatest) of float32 values and 0. pattern: theirs, (BLOCK,) int32.

    Of negative numbers the least has the largest pattern, read as unsigned.
    """
    least = tl.max(pattern.to(tl.uint32, bitcast=True), axis=0).to(tl.int32, bitcast=True)
    return tl.minimum(least, 0), tl.maximum(tl.max(pattern, axis=0), 0)


@triton.jit
def _note(finite, least, greatest):
    """finite[0] = 0 where a range is not finite."""
    tl.store(finite, 0, mask=(greatest >= INF_BITS) | ((least & MAGNITUDE) >= INF_BITS))


@triton.jit
def _grid(least, greatest, BITS: tl.constexpr):
    """(scale float64, zero int32) of a range given by its bit patterns: affine._grid."""
    low = least.to(tl.float32, bitcast=True).to(tl.float64)
    high = greatest.to(tl.float32, bitcast=True).to(tl.float64)
    top: tl.constexpr = (1 << BITS) - 1
    spread = (high - low) / tl.full((), top, tl.float64)
    flat = spread == 0
    zero = nearest64(-low / tl.where(flat, 1.0, spread))
    zero = tl.minimum(tl.maximum(zero, 0), top)
    most = tl.full((), _LARGEST, tl.float64) / tl.maximum(zero, top - zero).to(tl.float64)
    return tl.where(flat, 1.0, tl.minimum(spread, most)), zero


@triton.jit
def _place(payload, bucket, buckets):
    """Where a bucket's scale and zero point lie."""
    scales = payload.to(tl.pointer_type(tl.float64))
    return scales + bucket, (scales + buckets).to(tl.pointer_type(tl.int32)) + bucket


@triton.jit
def measure_kernel(
    x, table, finite, lows, highs, BLOCK: tl.constexpr, ALIGN: tl.constexpr, BYTES: tl.constexpr
):
    """The range of each segment, as bit patterns."""
    g = tl.program_id(0).to(tl.int64)
    begin, n, _, _ = _segment(table, g, ALIGN, BYTES)
    v = load_first(x + begin, tl.arange(0, BLOCK), n, ALIGN).to(tl.float32)
    least, greatest = _range(v.to(tl.int32, bitcast=True))
    _note(finite, least, greatest)
    tl.store(lows + g, least)
    tl.store(highs + g, greatest)


@triton.jit
def grid_kernel(lows, highs, firsts, payload, buckets, BITS: tl.constexpr):
    """Scale and zero point of one bucket, whose segments are firsts[k] to firsts[k + 1]."""
    k = tl.program_id(0).to(tl.int64)
    first, last = tl.load(firsts + k), tl.load(firsts + k + 1)
    low, high = tl.zeros((_AT_ONCE,), tl.uint32), tl.zeros((_AT_ONCE,), tl.int32)
    for at in range(first, last, _AT_ONCE):
        g = at + tl.arange(0, _AT_ONCE)
        low = tl.maximum(low, tl.load(lows + g, mask=g < last, other=0).to(tl.uint32, bitcast=True))
        high = tl.maximum(high, tl.load(highs + g, mask=g < last, other=0))
    least, greatest = tl.max(low, axis=0).to(tl.int32, bitcast=True), tl.max(high, axis=0)
    scale, zero = _grid(least, greatest, BITS)
    scale_at, zero_at = _place(payload, k, buckets)
    tl.store(scale_at, scale)
    tl.store(zero_at, zero)


@triton.jit
def encode_kernel(
    x,
    payload,
    table,
    finite,
    buckets,
    KNOWN: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
    BYTES: tl.constexpr,
):
    """Scale and zero point (unless KNOWN), and the codes of one segment; finite[0] = 0 where it is not."""
    g = tl.program_id(0).to(tl.int64)
    begin, n, byte, bucket = _segment(table, g, ALIGN, BYTES)
    p = tl.arange(0, BLOCK)
    v = load_first(x + begin, p, n, ALIGN).to(tl.float32)
    scale_at, zero_at = _place(payload, bucket, buckets)
    if KNOWN:
        scale, zero = tl.load(scale_at), tl.load(zero_at)
    else:
        least, greatest = _range(v.to(tl.int32, bitcast=True))
        _note(finite, least, greatest)
        scale, zero = _grid(least, greatest, BITS)
        tl.store(scale_at, scale)
        tl.store(zero_at, zero)
    lift = tl.where(scale < TINY, LIFT, 1.0)
    inverse = (1.0 / (scale * lift.to(tl.float64))).to(tl.float32)
    code = tl.minimum(tl.maximum(nearest((v * lift) * inverse) + zero, 0), (1 << BITS) - 1)
    code = tl.where(p < n, code, 0)  # what is behind the last one is zero in its byte, too
    even, odd = tl.split(tl.reshape(code, (BLOCK // 2, 2)))
    store_codes(even, odd, payload + byte, (n * BITS + 7) // 8, BITS, BLOCK, BYTES)


@triton.jit
def decode_kernel(
    payload,
    acc,
    table,
    buckets,
    weight: "fp64",  # type: ignore[name-defined]  # noqa: F821
    ASSIGN: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
    BYTES: tl.constexpr,
):
    """acc += weight · Q(x), or acc = Q(x), for one segment."""
    g = tl.program_id(0).to(tl.int64)
    begin, n, byte, bucket = _segment(table, g, ALIGN, BYTES)
    scale_at, zero_at = _place(payload, bucket, buckets)
    scale, zero = tl.load(scale_at), tl.load(zero_at)
    tiny = scale < TINY
    kind = acc.dtype.element_ty
    unit = scale * tl.where(tiny, LIFT, 1.0).to(tl.float64)
    factor = tl.full((), weight, tl.float64).to(kind) * unit.to(kind)
    level = load_codes(payload + byte, n, BITS, BLOCK, BYTES) - zero
    value = level.to(kind) * factor * tl.where(tiny, DROP, 1.0).to(kind)
    p = tl.arange(0, BLOCK)
    if not ASSIGN:
        value = load_first(acc + begin, p, n, ALIGN) + value
    store_first(acc + begin, p, n, value, ALIGN)


@triton.jit
def copy_kernel(x, payload, table, finite, BLOCK: tl.constexpr, ALIGN: tl.constexpr, BYTES: tl.constexpr):
    """A segment of a 1-D tensor to the payload, as float32; finite[0] = 0 where it is not."""
    begin, n, byte, _ = _segment(table, tl.program_id(0).to(tl.int64), ALIGN, BYTES)
    p = tl.arange(0, BLOCK)
    v = load_first(x + begin, p, n, ALIGN).to(tl.float32)
    least, greatest = _range(v.to(tl.int32, bitcast=True))
    _note(finite, least, greatest)
    store_first((payload + byte).to(tl.pointer_type(tl.float32)), p, n, v, BYTES // 4)


@triton.jit
def add_kernel(
    payload,
    acc,
    table,
    weight: "fp64",  # type: ignore[name-defined]  # noqa: F821
    ASSIGN: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
    BYTES: tl.constexpr,
):
    """acc += weight · a segment of a 1-D tensor in the payload, or acc = it."""
    begin, n, byte, _ = _segment(table, tl.program_id(0).to(tl.int64), ALIGN, BYTES)
    p = tl.arange(0, BLOCK)
    kind = acc.dtype.element_ty
    sent = load_first((payload + byte).to(tl.pointer_type(tl.float32)), p, n, BYTES // 4)
    value = sent.to(kind) * tl.full((), weight, tl.float64).to(kind)
    if not ASSIGN:
        value = load_first(acc + begin, p, n, ALIGN) + value
    store_first(acc + begin, p, n, value, ALIGN)


class _Segments:
    """Extents of a vector, cut for one program each. rows: (n, 3) int64, of affine.AffineKernels' tables."""

    def __init__(self, rows: np.ndarray, bits: int, device: torch.device):
        """bits: of an element in the payload."""
        lengths = rows[:, 1] - rows[:, 0]
        pieces = -(-lengths // SEGMENT)
        self.firsts = np.concatenate(([0], np.cumsum(pieces)))  # of each extent, and how many there are
        bucket = np.repeat(np.arange(len(rows)), pieces)
        offset = SEGMENT * (np.arange(len(bucket)) - self.firsts[bucket])
        begins, bytes_ = rows[bucket, 0] + offset, rows[bucket, 2] + offset * bits // 8
        counts = np.minimum(lengths[bucket] - offset, SEGMENT)
        self.grid = (len(bucket),)
        self.table = torch.from_numpy(np.stack((begins, counts, bytes_, bucket), axis=1)).to(device)
        block = max(16, 1 << (int(counts.max(initial=1)) - 1).bit_length())
        self.options = {
            "BLOCK": block,
            "ALIGN": int(np.gcd.reduce(begins, initial=16)),
            "BYTES": int(np.gcd.reduce(bytes_, initial=16)),
            "enable_fp_fusion": False,
            "num_warps": max(1, block // 512),
        }


class FusedAffine:
    """As affine.AffineKernels, on tensors of one device: x, acc (d,), payload (bytes,) uint8."""

    def __init__(self, wide: np.ndarray, plain: np.ndarray, *, bits: int, device: torch.device):
        self.bits, self._buckets = bits, len(wide)
        self._wide, self._plain = _Segments(wide, bits, device), _Segments(plain, 32, device)
        # Set once, as in buckets.py.
        self._finite = torch.ones(1, dtype=torch.int32, device=device)
        self._known = self._wide.grid != (self._buckets,)
        if self._known:
            self._lows, self._highs = torch.zeros(2, *self._wide.grid, dtype=torch.int32, device=device)
            self._firsts = torch.from_numpy(self._wide.firsts).to(device)

    def encode(self, x: Tensor, payload: Tensor, key: int = 0) -> Tensor:
        """The payload of x. Returns whether x is finite in float32, as FusedKernels.encode."""
        wide, plain = self._wide, self._plain
        if plain.grid[0]:
            copy_kernel[plain.grid](x, payload, plain.table, self._finite, **plain.options)
        if self._known:
            measure_kernel[wide.grid](x, wide.table, self._finite, self._lows, self._highs, **wide.options)
            grid_kernel[(self._buckets,)](
                self._lows, self._highs, self._firsts, payload, self._buckets, BITS=self.bits,
                enable_fp_fusion=False,
            )  # fmt: skip
        if wide.grid[0]:
            encode_kernel[wide.grid](
                x, payload, wide.table, self._finite, self._buckets, KNOWN=self._known, BITS=self.bits,
                **wide.options,
            )  # fmt: skip
        return self._finite

    def decode(self, payload: Tensor, acc: Tensor, weight: float, *, assign: bool) -> None:
        """acc += weight · Q(x), or acc = Q(x)."""
        wide, plain = self._wide, self._plain
        if plain.grid[0]:
            add_kernel[plain.grid](payload, acc, plain.table, weight, ASSIGN=assign, **plain.options)
        if wide.grid[0]:
            decode_kernel[wide.grid](
                payload, acc, wide.table, self._buckets, weight, ASSIGN=assign, BITS=self.bits,
                **wide.options,
            )  # fmt: skip
