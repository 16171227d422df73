"""fp4's kernels in Triton: one program for SEGMENT elements. The bytes of reference_fp4.py.

No `from __future__ import annotations` here: Triton reads the types of scalar arguments from the annotations.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from qafel_mpi.kernels import reference_fp4
from qafel_mpi.kernels.eager_fp4 import unit_of
from qafel_mpi.kernels.triton.buckets import mix
from qafel_mpi.kernels.triton.packing import INF_BITS, MAGNITUDE, load_first, nearest, store_first

SEGMENT = 2048
_MOST_E8M0, _MOST_E4M3 = tl.constexpr(reference_fp4.LARGEST_E8M0), tl.constexpr(reference_fp4.LARGEST_E4M3)
_OPTIONS = {"enable_fp_fusion": False, "num_warps": 4}


@triton.jit
def _value_of_e4m3(code):
    power = (((code >> 3) + 117) << 23).to(tl.float32, bitcast=True)
    return tl.where(code < 8, code.to(tl.float32) * 0.001953125, (8 + (code & 7)).to(tl.float32) * power)


@triton.jit
def _e4m3(s, NEAR: tl.constexpr):
    pattern, steps = s.to(tl.int32, bitcast=True), s * 512.0
    if NEAR:
        normal, small = (pattern + 0x7FFFF + ((pattern >> 20) & 1)) >> 20, nearest(tl.minimum(steps, 16.0))
    else:
        normal, small = (pattern + 0xFFFFF) >> 20, tl.ceil(tl.minimum(steps, 16.0)).to(tl.int32)
    return tl.minimum(tl.where(s < 0.015625, small, normal - 960), _MOST_E4M3)


@triton.jit
def _codes(y, draw, NEAR: tl.constexpr):
    """Magnitudes' codes, int32."""
    if NEAR:
        k = (y > 0.25).to(tl.int32) + (y >= 0.75).to(tl.int32) + (y > 1.25).to(tl.int32)
        k += (y >= 1.75).to(tl.int32) + (y > 2.5).to(tl.int32) + (y >= 3.5).to(tl.int32)
        return k + (y > 5.0).to(tl.int32)
    else:
        n = nearest(y * 131072.0)
        more = (n >= 262144).to(tl.int32) + (n >= 524288).to(tl.int32)
        return ((n + (draw << more)) >> (16 + more)) + 2 * more


@triton.jit(do_not_specialize=["k0", "k1"])
def encode_kernel(
    x,
    payload,
    finite,
    unit,
    d,
    blocks,
    k0: "u32",  # type: ignore[name-defined]  # noqa: F821
    k1: "u32",  # type: ignore[name-defined]  # noqa: F821
    NV: tl.constexpr,
    NEAR: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Scales and codes of BLOCK elements, SIZE a block; finite[0] = 0 where one is not. unit: of NVFP4."""
    rows: tl.constexpr = BLOCK // SIZE
    g = tl.program_id(0).to(tl.int64)
    begin = g * BLOCK
    n = tl.minimum(d - begin, BLOCK)
    p = tl.arange(0, BLOCK)
    v = load_first(x + begin, p, n, 16).to(tl.float32)
    pattern = v.to(tl.int32, bitcast=True)
    top = tl.max(tl.reshape(pattern & MAGNITUDE, (rows, SIZE)), axis=1)
    tl.store(finite, 0, mask=tl.max(top, axis=0) >= INF_BITS)
    if NV:
        all_ = tl.load(unit)
        zero = all_ == 0
        wanted = tl.div_rn(top.to(tl.float32, bitcast=True), tl.full((rows,), 6.0, tl.float32))
        wanted = tl.where(
            zero, 0.0, tl.div_rn(wanted, tl.full((rows,), 1.0, tl.float32) * tl.where(zero, 1.0, all_))
        )
        scale = _e4m3(wanted, NEAR)
        none = scale == 0
        own = tl.where(none, 1.0, _value_of_e4m3(scale) * all_)
        inverse = tl.where(none, 0.0, tl.div_rn(tl.full((rows,), 1.0, tl.float32), own))
    else:
        scale = (top >> 23) - 2
        if not NEAR:
            scale += ((top & 0x7FFFFF) > 0x400000).to(tl.int32)
        scale = tl.minimum(tl.maximum(scale, 0), _MOST_E8M0)
        inverse = ((254 - scale) << 23).to(tl.float32, bitcast=True)
    head: tl.constexpr = 4 if NV else 0
    row = g * rows + tl.arange(0, rows)
    tl.store(payload + head + row, scale.to(tl.uint8), mask=row < blocks)
    size = (pattern & MAGNITUDE).to(tl.float32, bitcast=True)
    y = tl.minimum(tl.reshape(size, (rows, SIZE)) * inverse[:, None], 6.0)
    half = tl.arange(0, BLOCK // 2)
    h = mix((begin >> 1).to(tl.uint32) + half.to(tl.uint32), k0, k1)
    draw = tl.reshape(tl.join((h & 0xFFFF).to(tl.int32), (h >> 16).to(tl.int32)), (BLOCK,))
    code = _codes(tl.reshape(y, (BLOCK,)), draw, NEAR) | ((pattern >> 28) & 8)
    even, odd = tl.split(tl.reshape(tl.where(p < n, code, 0), (BLOCK // 2, 2)))
    store_first(payload + head + blocks + begin // 2, half, (n + 1) // 2, (even | (odd << 4)).to(tl.uint8), 1)


@triton.jit
def decode_kernel(
    payload,
    acc,
    unit,
    d,
    blocks,
    weight: "fp64",  # type: ignore[name-defined]  # noqa: F821
    ASSIGN: tl.constexpr,
    NV: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """acc += weight · Q(x), or acc = Q(x), for BLOCK elements."""
    rows: tl.constexpr = BLOCK // SIZE
    g = tl.program_id(0).to(tl.int64)
    begin = g * BLOCK
    n = tl.minimum(d - begin, BLOCK)
    row = g * rows + tl.arange(0, rows)
    if NV:
        scale = tl.load(payload + 4 + row, mask=row < blocks, other=0).to(tl.int32)
        half = _value_of_e4m3(scale) * tl.load(unit) * 0.5
        codes_at = payload + 4 + blocks + begin // 2
    else:
        scale = tl.load(payload + row, mask=row < blocks, other=0).to(tl.int32)
        half = tl.where(scale > 1, (scale - 1) << 23, 0x200000 << tl.minimum(scale, 1)).to(
            tl.float32, bitcast=True
        )
        codes_at = payload + blocks + begin // 2
    pair = load_first(codes_at, tl.arange(0, BLOCK // 2), (n + 1) // 2, 1).to(tl.int32)
    code = tl.reshape(tl.join(pair & 15, pair >> 4), (BLOCK,))
    k = code & 7
    twice = tl.where(k == 7, 12, k + tl.maximum(k - 4, 0))
    kind = acc.dtype.element_ty
    factor = tl.full((), weight, tl.float64).to(kind) * half.to(kind)
    level = tl.where(code > 7, -twice.to(kind), twice.to(kind))
    value = tl.reshape(tl.reshape(level, (rows, SIZE)) * factor[:, None], (BLOCK,))
    p = tl.arange(0, BLOCK)
    if not ASSIGN:
        value = load_first(acc + begin, p, n, 16) + value
    store_first(acc + begin, p, n, value, 16)


class FusedFp4:
    """As numba.fp4.Fp4Kernels, on tensors of one device: x, acc (d,), payload (bytes,) uint8."""

    def __init__(self, d: int, *, kind: int, nearest: bool, device: torch.device):
        size = reference_fp4.BLOCK[kind]
        self._d, self._blocks, self._grid = d, -(-d // size), (-(-d // SEGMENT),)
        self._nearest = nearest
        self._options = {"NV": kind == reference_fp4.NV, "SIZE": size, "BLOCK": SEGMENT, **_OPTIONS}
        # Set once, as in buckets.py.
        self._finite = torch.ones(1, dtype=torch.int32, device=device)
        self._unit = torch.ones(1, dtype=torch.float32, device=device)

    def encode(self, x: Tensor, payload: Tensor, key: int) -> Tensor:
        """The payload of x. Returns whether x is finite in float32, as FusedKernels.encode."""
        if self._options["NV"]:
            torch.amax(x.float().abs(), dim=0, keepdim=True, out=self._unit)
            self._unit.copy_(unit_of(self._unit))
            payload[:4] = self._unit.view(torch.uint8)
        encode_kernel[self._grid](
            x, payload, self._finite, self._unit, self._d, self._blocks, key & 0xFFFFFFFF, key >> 32,
            NEAR=self._nearest, **self._options,
        )  # fmt: skip
        return self._finite

    def decode(self, payload: Tensor, acc: Tensor, weight: float, *, assign: bool) -> None:
        """acc += weight · Q(x), or acc = Q(x)."""
        unit = payload[:4].clone().view(torch.float32) if self._options["NV"] else self._unit
        decode_kernel[self._grid](
            payload, acc, unit, self._d, self._blocks, weight, ASSIGN=assign, **self._options
        )
