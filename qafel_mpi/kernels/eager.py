"""The bucket kernels as plain torch operations: any device, any width, no compiler. The bytes of reference.py.

What a GPU uses where Triton is not installed, and for 9 to 16 bits. Every operation is a pass over memory, so
a fused kernel is tens of times faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.kernels.plan import Plan
from qafel_mpi.kernels.reference import (
    DROP,
    FLOAT_MAX,
    L2,
    LIFT,
    LINF,
    MEAN,
    MIX1,
    MIX2,
    SEGMENT,
    SHRINK,
    TINY,
    WEYL,
    slot_starts,
)

_WORD = 0xFFFFFFFF
_HUGE, _TINY, _LIFT, _DROP = float(FLOAT_MAX), float(TINY), float(LIFT), float(DROP)


def _number(value: float, like: Tensor) -> Tensor:
    """On like's device, of its type; made there: a copy from the host would wait for all that is queued."""
    return torch.full((), value, dtype=like.dtype, device=like.device)


@dataclass(frozen=True)
class Run:
    """Consecutive buckets of one size: the rows of a matrix. slot: of the first one."""

    bucket: int
    rows: int
    columns: int
    start: int
    slot: int

    @property
    def slots(self) -> int:
        """Slots a row takes."""
        return -(-self.columns // 8) * 8

    def of(self, x: Tensor) -> Tensor:
        """(rows, columns), a view of the flat vector."""
        return x[self.start : self.start + self.rows * self.columns].view(self.rows, self.columns)


def runs(plan: Plan) -> list[Run]:
    """The vector as few matrices."""
    sizes, slots = np.diff(plan.starts), slot_starts(plan.starts)
    edges = [0, *(np.flatnonzero(np.diff(sizes)) + 1).tolist(), len(sizes)]
    return [Run(a, b - a, int(sizes[a]), int(plan.starts[a]), int(slots[a])) for a, b in pairwise(edges)]


def tree_sum(values: Tensor) -> Tensor:
    """reference.tree_sum over the last dimension. values: (..., n) float64."""
    n = values.shape[-1]
    values = torch.nn.functional.pad(values, (0, (1 << (n - 1).bit_length()) - n))
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        values = values[..., :half] + values[..., half:]
    return values[..., 0]


def scales(v: Tensor, kind: int) -> Tensor:
    """reference.scale_of of each row. v: (rows, m) float32."""
    if kind == LINF:
        return v.abs().amax(dim=1)
    rows, m = v.shape
    values = v.double().square() if kind == L2 else v.double().abs()
    if m > SEGMENT:
        values = torch.nn.functional.pad(values, (0, -m % SEGMENT)).view(rows, -1, SEGMENT)
        values = tree_sum(values)
    total = tree_sum(values)
    return (total.sqrt() if kind == L2 else total / m).clamp(max=_HUGE).float()


def hashes(key: int, counters: Tensor) -> Tensor:
    """reference.hash32, int64: arithmetic cut to 32 bits. counters: int64."""
    h = ((counters * WEYL + (key & _WORD)) & _WORD) ^ (key >> 32)
    h = ((h ^ (h >> 16)) * MIX1) & _WORD
    h = ((h ^ (h >> 15)) * MIX2) & _WORD
    return h ^ (h >> 16)


def draws(key: int, slot: int, count: int, device: torch.device) -> Tensor:
    """reference.uniform16 of `count` slots from `slot`, both even."""
    h = hashes(key, torch.arange(slot // 2, (slot + count) // 2, device=device))
    return torch.stack((h & 0xFFFF, h >> 16), dim=1).view(-1).int()


def codes(v: Tensor, scale: Tensor, s: int, bits: int, kind: int, draw: Tensor) -> Tensor:
    """Codes of each row, not yet cut to `bits` bits. v, draw: (rows, m); scale: (rows,)."""
    if kind == MEAN:
        return (v < 0).int()
    limit = torch.full_like(scale, s * 65536.0)
    lift = torch.where(scale < _TINY, _LIFT, 1.0).to(scale.dtype)
    # A tensor over a tensor: torch turns number/tensor into a reciprocal and a product, which rounds twice.
    inverse = torch.where(scale == 0, 0.0, limit / (scale * lift))
    y = (v * lift[:, None] * inverse[:, None]).clamp(-s * 65536.0, s * 65536.0).round().int()
    if bits == 1:
        return ((2 * draw + 1 > y + 65536) & (scale != 0)[:, None]).int()
    return (y + draw) >> 16


def pack(code: Tensor, bits: int) -> Tensor:
    """(slots,) int32 codes, slots a multiple of 8, as bytes."""
    groups = (code & ((1 << bits) - 1)).view(-1, 8)
    out = torch.zeros(groups.shape[0], bits, dtype=torch.int32, device=code.device)
    for k in range(8):
        for byte in range(k * bits // 8, (k * bits + bits - 1) // 8 + 1):
            shift = k * bits - 8 * byte
            part = groups[:, k] << shift if shift >= 0 else groups[:, k] >> -shift
            out[:, byte] |= part & 255
    return out.to(torch.uint8).view(-1)


def unpack(data: Tensor, bits: int, *, signed: bool = True) -> Tensor:
    """Bytes, a multiple of `bits`, as (slots,) int32 levels; not signed: the codes themselves."""
    groups = data.view(-1, bits).int()
    out = torch.zeros(groups.shape[0], 8, dtype=torch.int32, device=data.device)
    for k in range(8):
        for byte in range(k * bits // 8, (k * bits + bits - 1) // 8 + 1):
            shift = k * bits - 8 * byte
            out[:, k] |= groups[:, byte] >> shift if shift >= 0 else groups[:, byte] << -shift
    out = out.view(-1) & ((1 << bits) - 1)
    if not signed:
        return out
    half = 1 << (bits - 1)
    return 1 - 2 * out if bits == 1 else (out ^ half) - half


def units(scale: Tensor, s: int) -> tuple[Tensor, Tensor]:
    """reference.unit_of of each scale."""
    levels = torch.full_like(scale, float(s))
    plain = scale / levels
    plain = torch.where(levels * plain > _HUGE, plain * float(SHRINK), plain)
    tiny = scale < _TINY
    return torch.where(tiny, scale * _LIFT / levels, plain), torch.where(tiny, _DROP, 1.0).to(scale.dtype)


class EagerKernels:
    """As cpu.BucketKernels, on tensors of one device: x, acc (d,), payload (bytes,) uint8."""

    def __init__(self, plan: Plan, *, bits: int, s: int, kind: int):
        self.plan, self.bits, self.s, self.kind = plan, bits, s, kind
        self.runs = runs(plan)
        self.codes_at = 4 * plan.buckets
        self.payload_bytes = self.codes_at + plan.code_bytes(bits)

    def encode(self, x: Tensor, payload: Tensor, key: int) -> Tensor:
        """Scales and codes into payload. Returns whether x is finite, a bool tensor."""
        v = x.float()
        for run in self.runs:
            values = run.of(v)
            scale = scales(values, self.kind)
            code = torch.zeros(run.rows, run.slots, dtype=torch.int32, device=x.device)
            draw = draws(key, run.slot, run.rows * run.slots, x.device).view(run.rows, -1)
            code[:, : run.columns] = codes(
                values, scale, self.s, self.bits, self.kind, draw[:, : run.columns]
            )
            payload[4 * run.bucket : 4 * (run.bucket + run.rows)] = scale.view(torch.uint8)
            at = self.codes_at + run.slot * self.bits // 8
            packed = pack(code.view(-1), self.bits)[: self.payload_bytes - at]
            payload[at : at + packed.numel()] = packed
        return torch.isfinite(v).all()

    def decode(self, payload: Tensor, acc: Tensor, weight: float, *, assign: bool) -> None:
        """acc += weight · Q(x), or acc = Q(x)."""
        for run in self.runs:
            scale = payload[4 * run.bucket : 4 * (run.bucket + run.rows)].clone().view(torch.float32)
            begin = self.codes_at + run.slot * self.bits // 8
            size = run.rows * run.slots * self.bits // 8
            data = torch.zeros(size, dtype=torch.uint8, device=payload.device)
            data[: self.payload_bytes - begin] = payload[begin : min(begin + size, self.payload_bytes)]
            levels = unpack(data, self.bits).view(run.rows, run.slots)[:, : run.columns].to(acc.dtype)
            unit, drop = units(scale, self.s)
            factor = unit.to(acc.dtype) * _number(weight, acc)
            value = levels * factor[:, None] * drop.to(acc.dtype)[:, None]
            target = run.of(acc)
            target.copy_(value) if assign else target.add_(value)

    def step(self, x: Tensor, x_hat: Tensor, payload: Tensor, key: int) -> Tensor:
        """payload = Q(x − x̂); x̂ += decode(payload). Returns like encode."""
        finite = self.encode(x - x_hat, payload, key)
        self.decode(payload, x_hat, 1.0, assign=False)
        return finite


def _runs(wide: np.ndarray, bits: int) -> list[tuple[int, int, int, int]]:
    """Buckets of one size that follow each other in vector and payload: (count, elements, first element, byte)."""
    runs: list[tuple[int, int, int, int]] = []
    for begin, end, at in wide.tolist():
        count, m, first, first_at = runs[-1] if runs else (0, 0, 0, 0)
        follows = (begin, at) == (first + count * m, first_at + count * -(-m * bits // 8))
        if follows and end - begin == m:
            runs[-1] = (count + 1, m, first, first_at)
        else:
            runs.append((1, end - begin, begin, at))
    return runs


class EagerAffine:
    """As affine.AffineKernels, on tensors of one device: a run of equal buckets at a time."""

    def __init__(self, wide: np.ndarray, plain: np.ndarray, *, bits: int):
        self._runs, self._plain, self._bits = _runs(wide, bits), plain.tolist(), bits
        self._buckets = len(wide)
        self._top = (1 << bits) - 1

    def encode(self, x: Tensor, payload: Tensor, key: int = 0) -> Tensor:
        """The payload of x. Returns whether x is finite in float32, a bool tensor."""
        v = x.float()
        for begin, end, at in self._plain:
            payload[at : at + 4 * (end - begin)] = v[begin:end].view(torch.uint8)
        rows = [v[begin : begin + count * m].view(count, m) for count, m, begin, _ in self._runs]
        grids = [self._grid(row) for row in rows]
        if grids:
            scales, zeros = torch.cat([g[0] for g in grids]), torch.cat([g[1] for g in grids])
            payload[: 12 * self._buckets] = torch.cat((scales.view(torch.uint8), zeros.view(torch.uint8)))
        for (count, m, _, at), row, (scale, zero) in zip(self._runs, rows, grids, strict=True):
            lift = torch.where(scale < _TINY, _LIFT, 1.0)
            inverse = (1.0 / (scale * lift.double())).float()
            code = (row * lift[:, None] * inverse[:, None]).round().int().add_(zero[:, None])
            code = torch.nn.functional.pad(code.clamp_(0, self._top), (0, -m % 8))
            size = -(-m * self._bits // 8)
            packed = pack(code.view(-1), self._bits).view(count, -1)
            payload[at : at + count * size] = packed[:, :size].reshape(-1)
        return torch.isfinite(v).all()

    def decode(self, payload: Tensor, acc: Tensor, weight: float, *, assign: bool) -> None:
        """acc += weight · Q(x), or acc = Q(x)."""
        w = _number(weight, acc)
        for begin, end, at in self._plain:
            values = payload[at : at + 4 * (end - begin)].clone().view(torch.float32).to(acc.dtype) * w
            acc[begin:end].copy_(values) if assign else acc[begin:end].add_(values)
        n = self._buckets
        scales = payload[: 8 * n].clone().view(torch.float64).split([run[0] for run in self._runs])
        zeros = payload[8 * n : 12 * n].clone().view(torch.int32).split([run[0] for run in self._runs])
        for (count, m, begin, at), scale, zero in zip(self._runs, scales, zeros, strict=True):
            size = -(-m * self._bits // 8)
            data = torch.nn.functional.pad(
                payload[at : at + count * size].view(count, size), (0, -size % self._bits)
            )
            codes_ = unpack(data.view(-1), self._bits, signed=False).view(count, -1)[:, :m]
            tiny = scale < _TINY
            factor = (scale * torch.where(tiny, _LIFT, 1.0)).to(acc.dtype) * w
            values = (codes_ - zero[:, None]).to(acc.dtype) * factor[:, None]
            values *= torch.where(tiny, _DROP, 1.0).to(acc.dtype)[:, None]
            target = acc[begin : begin + count * m].view(count, m)
            target.copy_(values) if assign else target.add_(values)

    def _grid(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """(scale float64, zero point int32) of each row."""
        least, greatest = v.amin(1).clamp(max=0).double(), v.amax(1).clamp(min=0).double()
        spread = (greatest - least) / self._top
        flat = spread == 0
        zero = torch.where(flat, 0.0, (-least / torch.where(flat, 1.0, spread)).round().clamp(0, self._top))
        largest = _HUGE * (1 - 2.0**-20) / torch.maximum(zero, self._top - zero)
        return torch.where(flat, 1.0, torch.minimum(spread, largest)), zero.int()


class EagerFloats:
    """identity's payload on the device."""

    def __init__(self, dtype: torch.dtype):
        self._dtype = dtype

    def encode(self, x: Tensor, payload: Tensor, key: int = 0) -> Tensor:
        """Returns whether x is finite, a bool tensor."""
        payload.copy_(x.to(self._dtype).view(torch.uint8))
        return torch.isfinite(x).all()

    def decode(self, payload: Tensor, acc: Tensor, weight: float, *, assign: bool) -> None:
        values = payload.view(self._dtype)
        acc.copy_(values) if assign else acc.add_(values, alpha=weight)


class EagerTopK:
    """topk's payload, made on the device."""

    def __init__(self, k: int):
        self._k = k

    def encode(self, x: Tensor, payload: Tensor, key: int = 0) -> Tensor:
        """Returns whether x is finite in float32, a bool tensor."""
        kept = torch.topk(x.abs(), self._k, sorted=False).indices.sort().values
        payload[: 4 * self._k] = x[kept].float().view(torch.uint8)
        payload[4 * self._k :] = kept.int().view(torch.uint8)
        return torch.isfinite(x.float()).all()
