"""fp4 as plain torch operations: any device, no compiler. The bytes of reference_fp4.py."""

from __future__ import annotations

import torch
from torch import Tensor

from qafel_mpi.kernels.eager import draws
from qafel_mpi.kernels.reference_fp4 import (
    BLOCK,
    BOUNDS,
    HEAD,
    LARGEST_E4M3,
    LARGEST_E8M0,
    LARGEST_UNIT,
    LEAST,
    MX,
    RANGE,
    TWICE,
)


def unit_of(top: Tensor) -> Tensor:
    """NVFP4's float32 for a vector with this largest magnitude. top: float32, of one element."""
    unit = (top / torch.full_like(top, float(RANGE))).clamp(max=float(LARGEST_UNIT))
    return torch.where(top < float(LEAST), torch.zeros_like(unit), unit)


def _e4m3(s: Tensor, nearest: bool) -> Tensor:
    pattern = s.view(torch.int32)
    add = 0x7FFFF + ((pattern >> 20) & 1) if nearest else torch.full_like(pattern, 0xFFFFF)
    steps = s * 512
    small = (steps.round() if nearest else steps.ceil()).int()
    return torch.where(s < 2.0**-6, small, ((pattern + add) >> 20) - 960).clamp(max=LARGEST_E4M3)


def _value_of_e4m3(code: Tensor) -> Tensor:
    power = (((code >> 3) + 117) << 23).view(torch.float32)
    return torch.where(code < 8, code * 2.0**-9, (8 + (code & 7)) * power)


class EagerFp4:
    """As numba.fp4.Fp4Kernels, on tensors of one device: x, acc (d,), payload (bytes,) uint8."""

    def __init__(self, d: int, *, kind: int, nearest: bool):
        self.kind, self.nearest, self.block = kind, nearest, BLOCK[kind]
        self.blocks, self.elements = -(-d // self.block), d
        self._scales = slice(HEAD[kind], HEAD[kind] + self.blocks)

    def encode(self, x: Tensor, payload: Tensor, key: int) -> Tensor:
        """Returns whether x is finite in float32, a bool tensor."""
        v = torch.nn.functional.pad(x.float(), (0, self.blocks * self.block - self.elements))
        rows = v.view(self.blocks, self.block)
        top = rows.abs().amax(dim=1)
        if self.kind == MX:
            pattern = top.view(torch.int32)
            up = 0 if self.nearest else ((pattern & 0x7FFFFF) > 0x400000).int()
            scale = ((pattern >> 23) - 2 + up).clamp(0, LARGEST_E8M0)
            inverse = ((254 - scale) << 23).view(torch.float32)
        else:
            unit = unit_of(top.amax().view(1))
            payload[:4] = unit.view(torch.uint8)
            wanted = torch.where(unit > 0, top / torch.full_like(top, 6.0) / unit, 0.0)
            scale = _e4m3(wanted, self.nearest)
            of_block = _value_of_e4m3(scale) * unit
            inverse = torch.where(scale > 0, torch.ones_like(of_block) / of_block, 0.0)
        payload[self._scales] = scale.to(torch.uint8)
        y = (rows.abs() * inverse[:, None]).clamp(max=6.0).view(-1)
        code = self._codes(y, key) | (torch.signbit(v).int() << 3)
        code[self.elements :] = 0
        packed = (code[0::2] | (code[1::2] << 4)).to(torch.uint8)
        payload[self._scales.stop :] = packed[: -(-self.elements // 2)]
        return torch.isfinite(v).all()

    def _codes(self, y: Tensor, key: int) -> Tensor:
        if self.nearest:
            code = torch.zeros_like(y, dtype=torch.int32)
            for bound, at in BOUNDS:
                code += (y >= bound) if at else (y > bound)
            return code
        n = (y * 2.0**17).round().int()
        more = (n >= 1 << 18).int() + (n >= 1 << 19)
        return ((n + (draws(key, 0, n.numel(), n.device) << more)) >> (16 + more)) + 2 * more

    def decode(self, payload: Tensor, acc: Tensor, weight: float, *, assign: bool) -> None:
        """acc += weight · Q(x), or acc = Q(x)."""
        bytes_, scale = payload[self._scales.stop :], payload[self._scales].int()
        code = torch.stack((bytes_ & 15, bytes_ >> 4), dim=1).view(-1)[: self.elements].int()
        twice = torch.tensor(TWICE, dtype=torch.int32).to(acc.device)[code & 7]
        twice = torch.where(code > 7, -twice, twice).to(acc.dtype)
        if self.kind == MX:
            pattern = torch.where(scale > 1, (scale - 1) << 23, 0x200000 << scale.clamp(max=1))
            half = pattern.int().view(torch.float32)
        else:
            unit = payload[:4].clone().view(torch.float32)
            half = _value_of_e4m3(scale) * unit * 0.5
        factor = half.to(acc.dtype) * torch.full((), weight, dtype=acc.dtype, device=acc.device)
        value = twice * factor.repeat_interleave(self.block)[: self.elements]
        acc.copy_(value) if assign else acc.add_(value)
