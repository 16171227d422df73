"""eden and its rotation as plain torch operations: any device, no compiler. The bytes of reference.py.

What a GPU uses where Triton is not installed, and to turn back once a step what it has added up in the rotated basis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qafel_mpi.kernels.blocks import LANES, Blocks
from qafel_mpi.kernels.eager import hashes, pack, unpack
from qafel_mpi.kernels.reference import (
    EDEN_BITS,
    EDEN_CUTS,
    EDEN_LEAST,
    EDEN_LEVELS,
    EDEN_UNIT,
    SECOND,
    eden_largest_scale,
)


@dataclass(frozen=True)
class Rows:
    """Blocks of one shape side by side: (blocks, positions, lanes). first, bucket: of the first of them."""

    blocks: int
    positions: int
    lanes: int
    begin: int
    elements: int
    bucket: int
    first_position: int

    @property
    def padded(self) -> int:
        return self.blocks * self.positions * self.lanes

    def of(self, x: Tensor) -> Tensor:
        """Those of a vector, with zeros behind."""
        here = torch.nn.functional.pad(
            x[self.begin : self.begin + self.elements], (0, self.padded - self.elements)
        )
        return here.view(self.blocks, self.positions, self.lanes)


def shapes(blocks: Blocks) -> Iterator[Rows]:
    """The vector as at most two arrays."""
    m = blocks.bucket
    if blocks.whole:
        yield Rows(blocks.whole, m, LANES, 0, blocks.whole * m * LANES, 0, 0)
    if (last := blocks.last) is not None:
        yield Rows(
            1, last.bucket, last.lanes, last.begin, last.elements, last.first_bucket, last.first_position
        )


def hadamard(z: Tensor) -> Tensor:
    """reference.hadamard along the positions. z: (blocks, positions, lanes)."""
    shape, half = z.shape, z.shape[1] // 2
    while half:
        pairs = z.view(shape[0], -1, 2, half, shape[2])
        upper, lower = pairs[:, :, 0], pairs[:, :, 1]
        z = torch.stack((upper + lower, upper - lower), dim=2).view(shape)
        half //= 2
    return z


def signs_of(key: int, rows: Rows, device: torch.device, rotation: int = 0) -> Tensor:
    """reference.signs_of_rotation, (blocks, positions, lanes) int64."""
    position = torch.arange(rows.blocks * rows.positions, device=device) + rows.first_position
    words = hashes(key, (position >> 1) + SECOND * rotation)
    bit = (16 * (position & 1))[:, None] + torch.arange(rows.lanes, device=device)
    return (1 - 2 * ((words[:, None] >> bit) & 1)).view(rows.blocks, rows.positions, rows.lanes)


class EagerEden:
    """As numba.eden.EdenKernels, on tensors of one device: x, acc (d,), payload (bytes,) uint8."""

    def __init__(self, blocks: Blocks, *, bits: int, rotations: int, least_squares: bool):
        self.blocks, self.bits, self.rotations, self.least_squares = blocks, bits, rotations, least_squares
        self._shapes = list(shapes(blocks))

    def encode(self, x: Tensor, payload: Tensor, key: int) -> Tensor:
        """Scales and codes into payload. Returns whether x is finite in float32, a bool tensor."""
        v, at = x.float(), 4 * self.blocks.buckets
        for rows in self._shapes:
            scale, code = self._quantized(rows.of(v), rows, key)
            first, count = 4 * rows.bucket, 4 * rows.blocks * rows.lanes
            payload[first : first + count] = scale.flatten().view(torch.uint8)
            # Each bucket's codes are a stream; the streams of a block's buckets take turns, byte by byte.
            streams = pack(code.transpose(1, 2).reshape(-1), self.bits).view(rows.blocks, rows.lanes, -1)
            size = rows.padded * self.bits // 8
            payload[at : at + size] = streams.transpose(1, 2).reshape(-1)
            at += size
        return torch.isfinite(v).all()

    def step(self, x: Tensor, x_hat: Tensor, payload: Tensor, key: int) -> Tensor:
        """payload = Q(x − x̂); x̂ += decode(payload). Returns like encode."""
        finite = self.encode(x - x_hat, payload, key)
        self.decode(payload, x_hat, 1.0, assign=False, key=key)
        return finite

    def decode(self, payload: Tensor, acc: Tensor, weight: float, *, assign: bool, key: int) -> None:
        """acc += weight · Q(x), or acc = Q(x)."""
        for rows, factor, levels in self._levels(payload, weight, acc):
            z = hadamard(levels)
            if self.rotations == 2:
                z = hadamard(z * signs_of(key, rows, acc.device, 1))
            values = (z * signs_of(key, rows, acc.device)).to(acc.dtype) * factor
            target = acc[rows.begin : rows.begin + rows.elements]
            values = values.view(-1)[: rows.elements]
            target.copy_(values) if assign else target.add_(values)

    def sum(self, payload: Tensor, sums: Tensor, weight: float) -> None:
        """sums += weight · scale · level, (padded d,)."""
        for rows, factor, levels in self._levels(payload, weight, sums):
            sums[rows.begin : rows.begin + rows.padded].add_((levels.to(sums.dtype) * factor).view(-1))

    def _quantized(self, v: Tensor, rows: Rows, key: int) -> tuple[Tensor, Tensor]:
        """Scales, (blocks, lanes) float32, and codes, (blocks, positions, lanes) int32."""
        m = rows.positions
        top = v.abs().amax(dim=(1, 2), keepdim=True)
        least = top < float(EDEN_LEAST)
        exponent = torch.frexp(torch.where(least, torch.ones_like(top), top)).exponent - 1
        one = torch.ones_like(top)
        z = (
            (v * torch.ldexp(one, EDEN_BITS - exponent))
            .round()
            .nan_to_num()
            .clamp(-(2.0**18), 2.0**18)
            .long()
        )
        z = z * signs_of(key, rows, v.device)
        if self.rotations == 2:
            shift = m.bit_length() - 1
            z = ((hadamard(z) + (1 << (shift - 1))) >> shift) * signs_of(key, rows, v.device, 1)
        norm = (z * z).sum(dim=1, keepdim=True).double().sqrt()
        unit = torch.full_like(norm, EDEN_UNIT)
        inverse = (unit / norm.clamp(min=1)).float()
        z = (hadamard(z).float() * inverse).round().int()
        size = torch.zeros_like(z)
        for cut in EDEN_CUTS[self.bits]:
            size += z.abs() > cut
        level = torch.tensor(EDEN_LEVELS[self.bits], dtype=torch.int32, device=v.device)[size.long()]
        total = (z.abs() * level).sum(dim=1, keepdim=True)
        power = torch.ldexp(one.double(), exponent - EDEN_BITS)
        if self.least_squares:
            scale = total * norm / (EDEN_UNIT * m * (level * level).sum(dim=1, keepdim=True)).double() * power
        else:
            scale = unit * norm / total.clamp(min=1).double() * power
        scale = scale.clamp(max=eden_largest_scale(self.bits, m, self.rotations)).float()
        code = size | ((z < 0).int() << (self.bits - 1))
        return torch.where(least, 0.0, scale)[:, 0], torch.where(least, 0, code)

    def _levels(self, payload: Tensor, weight: float, like: Tensor) -> Iterator[tuple[Rows, Tensor, Tensor]]:
        """(shape, factor of each bucket, signed levels) of all blocks."""
        at, half = 4 * self.blocks.buckets, 1 << (self.bits - 1)
        table = torch.tensor(EDEN_LEVELS[self.bits], dtype=torch.int64, device=like.device)
        w = torch.full((), weight, dtype=like.dtype, device=like.device)
        for rows in self._shapes:
            size = rows.padded * self.bits // 8
            streams = payload[at : at + size].view(rows.blocks, -1, rows.lanes).transpose(1, 2)
            at += size
            code = unpack(streams.reshape(-1), self.bits, signed=False).long()
            code = code.view(rows.blocks, rows.lanes, rows.positions).transpose(1, 2)
            first = 4 * rows.bucket
            scale = payload[first : first + 4 * rows.blocks * rows.lanes].clone().view(torch.float32)
            factor = w * scale.to(like.dtype).view(rows.blocks, 1, rows.lanes)
            levels = table[code & (half - 1)] * torch.where(code >= half, -1, 1)
            yield rows, factor, levels.contiguous()


def rotate(x: Tensor, blocks: Blocks, key: int, *, unit: bool = True) -> Tensor:
    """numba.rotation.RotationKernels.forward: (d,) -> (padded d,)."""
    out = torch.empty(blocks.padded, dtype=x.dtype, device=x.device)
    for rows in shapes(blocks):
        turned = hadamard(_flipped(rows.of(x), rows, key, unit))
        out[rows.begin : rows.begin + rows.padded] = turned.view(-1)
    return out


def rotate_back(y: Tensor, blocks: Blocks, key: int, *, unit: bool = True) -> Tensor:
    """numba.rotation.RotationKernels.back: (padded d,) -> (d,)."""
    out = torch.empty(blocks.elements, dtype=y.dtype, device=y.device)
    for rows in shapes(blocks):
        z = y[rows.begin : rows.begin + rows.padded].view(rows.blocks, rows.positions, rows.lanes)
        turned = _flipped(hadamard(z), rows, key, unit)
        out[rows.begin : rows.begin + rows.elements] = turned.reshape(-1)[: rows.elements]
    return out


def _flipped(z: Tensor, rows: Rows, key: int, unit: bool) -> Tensor:
    factor = rows.positions**-0.5 if unit else 1.0
    return (
        z * torch.full((), factor, dtype=z.dtype, device=z.device) * signs_of(key, rows, z.device).to(z.dtype)
    )
