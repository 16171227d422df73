"""The bucket kernels in Triton: one program a segment. The bytes of reference.py.

Compiled without fusing products and sums, and with divisions and roots that round correctly: otherwise the last
bits would differ from the CPU's. For 1 to 8 bits. TRITON_INTERPRET=1 runs them on the CPU, in the tests.

No `from __future__ import annotations` here: Triton reads the types of scalar arguments from the annotations.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from qafel_mpi.kernels import reference
from qafel_mpi.kernels.eager import tree_sum
from qafel_mpi.kernels.plan import BUCKET, START, Plan
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

_WEYL, _MIX1, _MIX2 = (tl.constexpr(v) for v in (reference.WEYL, reference.MIX1, reference.MIX2))
_SHRINK, _HUGE = tl.constexpr(float(reference.SHRINK)), tl.constexpr(float(reference.FLOAT_MAX))
_LINF, _L2, _MEAN = (tl.constexpr(v) for v in (reference.LINF, reference.L2, reference.MEAN))


@triton.jit
def _tree_sum(values, BLOCK: tl.constexpr):
    """reference.tree_sum of (BLOCK,) float64."""
    half: tl.constexpr = BLOCK // 2
    if BLOCK == 1:
        return tl.sum(values, axis=0)
    else:
        return _tree_sum(tl.sum(tl.reshape(values, (2, half)), axis=0), half)


@triton.jit
def _part(v, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """The sum that the scale of a segment is made of. v: (BLOCK,) float32, zeros behind the segment."""
    wide = v.to(tl.float64)
    return _tree_sum(wide * wide if KIND == _L2 else tl.abs(wide), BLOCK)


@triton.jit
def mix(j, k0, k1):
    """reference.hash32 of counters j, uint32."""
    h = (k0.to(tl.uint32) + j * _WEYL) ^ k1.to(tl.uint32)
    h = (h ^ (h >> 16)) * _MIX1
    h = (h ^ (h >> 15)) * _MIX2
    return h ^ (h >> 16)


@triton.jit
def _scaled(v, lift, inverse, limit, BITS: tl.constexpr):
    """rint(v · lift · inverse) held to ±limit, int32."""
    y = (v * lift) * inverse
    if BITS < 8:  # |v| <= scale: y passes the limit by less than a half, and is below 2^22
        return nearest(y)
    else:
        y = tl.minimum(tl.maximum(y, -limit), limit)
        return nearest64(y.to(tl.float64))


@triton.jit
def _codes(v, draw, lift, inverse, limit, valid, BITS: tl.constexpr, KIND: tl.constexpr):
    """Codes, int32, cut to BITS bits; zero where not valid."""
    if KIND == _MEAN:
        return (v < 0).to(tl.int32)
    else:
        y = _scaled(v, lift, inverse, limit, BITS)
        if BITS == 1:
            return ((2 * draw + 1 > y + 65536) & valid).to(tl.int32)
        else:
            return ((y + draw) >> 16) & ((1 << BITS) - 1)


@triton.jit
def _levels(code, BITS: tl.constexpr):
    if BITS == 1:
        return 1 - 2 * code
    else:
        return (code ^ (1 << (BITS - 1))) - (1 << (BITS - 1))


@triton.jit
def _unit(scale, S: tl.constexpr):
    """reference.unit_of."""
    tiny = scale < TINY
    unit = tl.div_rn(tl.where(tiny, scale * LIFT, scale), tl.full((), S, tl.float32))
    return tl.where(S * unit > _HUGE, unit * _SHRINK, unit), tl.where(tiny, DROP, 1.0)


@triton.jit
def _extent(table, g, ALIGN: tl.constexpr):
    """(first element, elements) of a segment. ALIGN divides every first element."""
    begin, end = tl.load(table + 3 * g), tl.load(table + 3 * g + 3)
    return tl.multiple_of(begin, ALIGN), end - begin


@triton.jit
def measure_kernel(
    x, table, tops, parts, where, KIND: tl.constexpr, BLOCK: tl.constexpr, ALIGN: tl.constexpr
):
    """Each segment's largest bit pattern and part of the scale, to tops[where[g]] and parts[where[g]]."""
    g = tl.program_id(0).to(tl.int64)
    begin, n = _extent(table, g, ALIGN)
    p = tl.arange(0, BLOCK)
    v = load_first(x + begin, p, n, ALIGN).to(tl.float32)
    to = tl.load(where + g)
    tl.store(tops + to, tl.max(v.to(tl.int32, bitcast=True) & MAGNITUDE, axis=0))
    if KIND != _LINF:
        tl.store(parts + to, _part(v, KIND, BLOCK))


@triton.jit(do_not_specialize=["k0", "k1"])
def encode_kernel(
    x,
    x_hat,
    payload,
    table,
    finite,
    buckets,
    k0: "u32",  # type: ignore[name-defined]  # noqa: F821
    k1: "u32",  # type: ignore[name-defined]  # noqa: F821
    STEP: tl.constexpr,
    KNOWN: tl.constexpr,
    KIND: tl.constexpr,
    S: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """Scale (unless KNOWN) and codes of one segment; finite[0] = 0 where it is not. STEP: of x − x̂, x̂ moves too."""
    g = tl.program_id(0).to(tl.int64)
    begin, n = _extent(table, g, ALIGN)
    slot, bucket = tl.multiple_of(tl.load(table + 3 * g + 1), 8), tl.load(table + 3 * g + 2)
    slots = tl.load(table + 3 * g + 4) - slot
    p = tl.arange(0, BLOCK)
    v = load_first(x + begin, p, n, ALIGN)
    if STEP:
        state = load_first(x_hat + begin, p, n, ALIGN)
        v = v - state
    v = v.to(tl.float32)
    top = tl.max(v.to(tl.int32, bitcast=True) & MAGNITUDE, axis=0)
    tl.store(finite, 0, mask=top >= INF_BITS)
    scale_at = (payload + 4 * bucket).to(tl.pointer_type(tl.float32))
    if KNOWN:
        scale = tl.load(scale_at)
    else:
        if KIND == _LINF:
            scale = top.to(tl.float32, bitcast=True)
        else:
            total = _part(v, KIND, BLOCK)
            value = tl.sqrt(total) if KIND == _L2 else total / n.to(tl.float64)
            scale = tl.minimum(value, _HUGE).to(tl.float32)
        tl.store(scale_at, scale)

    limit = S * 65536.0
    lift = tl.where(scale < TINY, LIFT, 1.0)
    zero = scale == 0
    inverse = tl.where(
        zero, 0.0, tl.div_rn(tl.full((), limit, tl.float32), tl.where(zero, 1.0, scale * lift))
    )
    half = tl.arange(0, BLOCK // 2)
    h = mix((slot >> 1).to(tl.uint32) + half.to(tl.uint32), k0, k1)
    low, high = (h & 0xFFFF).to(tl.int32), (h >> 16).to(tl.int32)
    first, second = tl.split(tl.reshape(v, (BLOCK // 2, 2)))
    count = tl.where(zero, 0, n).to(tl.int32)  # a bucket of zeros has codes 0, one bit's too
    even = _codes(first, low, lift, inverse, limit, 2 * half < count, BITS, KIND)
    odd = _codes(second, high, lift, inverse, limit, 2 * half + 1 < count, BITS, KIND)
    # Slots begin at multiples of 8: of 4 bytes at 4 and at 8 bits.
    store_codes(even, odd, payload + 4 * buckets + slot * BITS // 8, (slots * BITS + 7) // 8, BITS, BLOCK, 4)
    if STEP:
        unit, drop = _unit(scale, S)
        level = tl.reshape(tl.join(_levels(even, BITS), _levels(odd, BITS)), (BLOCK,)).to(state.dtype)
        moved = state + level * unit.to(state.dtype) * drop.to(state.dtype)
        store_first(x_hat + begin, p, n, moved, ALIGN)


@triton.jit
def decode_kernel(
    payload,
    acc,
    table,
    buckets,
    weight: "fp64",  # type: ignore[name-defined]  # noqa: F821
    ASSIGN: tl.constexpr,
    S: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """acc += weight · Q(x), or acc = Q(x), for one segment."""
    g = tl.program_id(0).to(tl.int64)
    begin, n = _extent(table, g, ALIGN)
    slot, bucket = tl.multiple_of(tl.load(table + 3 * g + 1), 8), tl.load(table + 3 * g + 2)
    p = tl.arange(0, BLOCK)
    level = _levels(load_codes(payload + 4 * buckets + slot * BITS // 8, n, BITS, BLOCK, 4), BITS)
    unit, drop = _unit(tl.load((payload + 4 * bucket).to(tl.pointer_type(tl.float32))), S)
    kind = acc.dtype.element_ty
    value = level.to(kind) * (tl.full((), weight, tl.float64).to(kind) * unit.to(kind)) * drop.to(kind)
    if not ASSIGN:
        value = load_first(acc + begin, p, n, ALIGN) + value
    store_first(acc + begin, p, n, value, ALIGN)


class FusedKernels:
    """As cpu.BucketKernels, on tensors of one device: x, x_hat, acc (d,), payload (bytes,) uint8. 1 to 8 bits."""

    def __init__(self, plan: Plan, *, bits: int, s: int, kind: int, device: torch.device):
        self.plan, self.bits, self.s, self.kind = plan, bits, s, kind
        self._grid = (plan.segments,)
        longest = int(np.diff(plan.table[:, START]).max())
        block = max(16, 1 << (longest - 1).bit_length())
        self._options = {
            "BLOCK": block,
            "ALIGN": int(np.gcd.reduce(plan.table[:-1, START], initial=16)),
            "enable_fp_fusion": False,
            "num_warps": max(1, block // 512),
        }
        self._table = torch.from_numpy(plan.table).to(device)
        # Set once, not for every vector: that would be a kernel of its own, a fifth of the time of 11e6 elements.
        self._finite = torch.ones(1, dtype=torch.int32, device=device)
        if not plan.single:
            # The segments' parts as a matrix, a row a bucket, padded to a power of two.
            segment_bucket = plan.table[:-1, BUCKET]
            first = np.searchsorted(segment_bucket, segment_bucket)
            column = np.arange(plan.segments) - first
            width = 1 << int(column.max()).bit_length()
            self._where = torch.from_numpy(segment_bucket * width + column).to(device)
            self._tops = torch.zeros(plan.buckets, width, dtype=torch.int32, device=device)
            self._parts = torch.zeros(plan.buckets, width, dtype=torch.float64, device=device)
            self._counts = torch.from_numpy(np.diff(plan.starts)).to(device)

    def encode(self, x: Tensor, payload: Tensor, key: int) -> Tensor:
        """Scales and codes into payload. Returns whether x is finite in float32, an int32 tensor of one.

        The same one each time: who finds 0 there sets it to 1 again.
        """
        if not self.plan.single:
            self._measure(x, payload)
        return self._encode(x, x, payload, key, step=False)

    def step(self, x: Tensor, x_hat: Tensor, payload: Tensor, key: int) -> Tensor:
        """payload = Q(x − x̂); x̂ += decode(payload). For single plans. Returns like encode."""
        return self._encode(x, x_hat, payload, key, step=True)

    def decode(self, payload: Tensor, acc: Tensor, weight: float, *, assign: bool) -> None:
        """acc += weight · Q(x), or acc = Q(x)."""
        decode_kernel[self._grid](
            payload, acc, self._table, self.plan.buckets, weight, ASSIGN=assign, S=self.s,
            BITS=self.bits, **self._options,
        )  # fmt: skip

    def _encode(self, x: Tensor, x_hat: Tensor, payload: Tensor, key: int, *, step: bool) -> Tensor:
        encode_kernel[self._grid](
            x, x_hat, payload, self._table, self._finite, self.plan.buckets, key & 0xFFFFFFFF, key >> 32,
            STEP=step, KNOWN=not self.plan.single, KIND=self.kind, S=self.s, BITS=self.bits, **self._options,
        )  # fmt: skip
        return self._finite

    def _measure(self, x: Tensor, payload: Tensor) -> None:
        measure_kernel[self._grid](
            x, self._table, self._tops, self._parts, self._where, KIND=self.kind, **self._options
        )
        if self.kind == reference.LINF:
            scales = self._tops.amax(dim=1).view(torch.float32)
        else:
            total = tree_sum(self._parts)
            value = total.sqrt() if self.kind == reference.L2 else total / self._counts
            scales = value.clamp(max=float(reference.FLOAT_MAX)).float()
        payload[: 4 * self.plan.buckets] = scales.view(torch.uint8)
