"""eden: a random rotation, then the nearest of 2^bits fixed levels, with a scale that makes up for the rounding.

Vargaftik et al., DRIVE (NeurIPS 2021, arXiv 2105.08339) and EDEN (ICML 2022, arXiv 2108.08842). Whatever the vector,
a rotated bucket is near a Gaussian one, for which the levels of Lloyd and Max are best.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Layout, PayloadError
from qafel_mpi.codecs.device import DeviceCodec
from qafel_mpi.kernels import eager_eden
from qafel_mpi.kernels.blocks import Blocks
from qafel_mpi.kernels.numba.eden import EdenKernels
from qafel_mpi.kernels.numba.rotation import RotationKernels
from qafel_mpi.kernels.reference import EDEN_LEVELS


class Eden(DeviceCodec):
    """Payload: one float32 scale a bucket, then the packed codes (FORMAT.md). The chain of rotation, quantizer and
    packing as one kernel.

    bits: 1 to 4. bucket: elements, a power of two from 8 to 4096. scale: "unbiased", so that E[Q(x)] = x for a
    uniformly random rotation, or "least-squares", with the least error. rotations: 1 or 2. shared: all messages have
    one key, and are added up in the rotated basis.
    """

    name, id, unbiased = "eden", 7, False
    decodes_finite = True
    in_place = True
    starts_sums = True
    moves = True

    def __init__(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        *,
        bits: int = 4,
        bucket: int = 512,
        scale: str = "unbiased",
        rotations: int = 1,
        shared: bool = False,
        threads: int = 1,
    ):
        super().__init__(layout, dtype)
        self.bits, self.scale, self.rotations, self.shared = bits, scale, rotations, shared
        self.own_sums = shared
        self.blocks = Blocks(layout.elements, bucket)
        self._bytes = 4 * self.blocks.buckets + self.blocks.padded * bits // 8
        self._least = scale == "least-squares"
        pieces = None if layout.places is None else layout.pieces
        self._cpu = EdenKernels(
            self.blocks,
            bits=bits,
            rotations=rotations,
            least_squares=self._least,
            threads=threads,
            pieces=pieces,
        )
        self._turn: RotationKernels | None = None

    def payload_bytes(self) -> int:
        return self._bytes

    def fingerprint(self) -> str:
        shared = ", shared" if self.shared else ""
        return f"{super().fingerprint()} {self.blocks.bucket} {self.scale} {self.rotations}{shared}"

    def delta(self) -> float | None:
        """With the scale of least squares the error is (1 − cos²)‖v‖², of the angle between the rotated v and its
        levels. Each rotated element is a sum of ±v_j/√m, so that E‖r‖₁ ≥ √(m/2)‖v‖₂ (Khintchine's inequality with
        Szarek's constant). Levels rise with |r|: by Chebyshev's sum inequality cos is at least the product of
        ‖r‖₁/(√m‖r‖₂) and ‖l‖₁/(√m‖l‖₂), and the latter is at least 2√(ab)/(a + b) for levels from a to b (Pólya and
        Szegő). Hence δ ≥ 2ab/(a + b)². A block whose largest element is below 2^−100 is sent as zeros, and left out
        here. The unbiased scale has no such guarantee.
        """
        if not self._least:
            return None
        a, b = EDEN_LEVELS[self.bits][0], EDEN_LEVELS[self.bits][-1]
        return 2.0 * a * b / (a + b) ** 2

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        bad = self._on(x.device).encode(x, out, key) if x.is_cuda else self._cpu.encode(x.numpy(), out, key)
        if bad >= 0:
            self.refuse(x)
        return self._bytes

    def encode_difference(self, x: Tensor, x_hat: Tensor, out: np.ndarray, key: int) -> int:
        bad = (
            self._on(x.device).step(x, x_hat, out, key)
            if x.is_cuda
            else self._cpu.step(x.numpy(), x_hat.numpy(), out, key)
        )
        if bad >= 0:
            self.refuse(x - x_hat)
        return self._bytes

    def one_pass(self, assigns: bool) -> EdenKernels | None:
        return None if assigns else self._cpu

    def validate(self, payload: np.ndarray) -> np.ndarray:
        super().validate(payload)
        if not self._cpu.valid(payload):
            raise PayloadError(
                f"{self.name}: a scale is negative, not finite, or larger than an encoder writes"
            )
        return payload

    def _decode(self, valid: np.ndarray, acc: Tensor, weight: float, key: int, *, assign: bool) -> None:
        if acc.is_cuda:
            self._on(acc.device).decode(valid, acc, weight, assign=assign, key=key)
        else:
            self._cpu.decode(valid, acc.numpy(), weight, key, assign=assign)

    # --- sums in the rotated basis, with one key for all messages ---------------------------------------------------

    @property
    def sum_elements(self) -> int:
        return self.blocks.padded if self.shared else super().sum_elements

    def _sum(self, valid: np.ndarray, sums: Tensor, weight: float, key: int) -> None:
        if not self.shared:
            super()._sum(valid, sums, weight, key)
        elif sums.is_cuda:
            self._on(sums.device).sum(valid, sums, weight)
        else:
            self._cpu.sum(valid, sums.numpy(), weight)

    def resolve(self, sums: Tensor, key: int) -> Tensor:
        if not self.shared:
            return sums
        if sums.is_cuda:
            return eager_eden.rotate_back(sums, self.blocks, key, unit=False)
        if self._turn is None:
            self._turn = RotationKernels(self.blocks, sums.numpy().dtype, unit=False)
        out = self.scratch(sums[: self.layout.elements])
        self._turn.back(sums.numpy(), out.numpy(), key)
        return out

    def _kernels_on(self, device: torch.device) -> Any:
        from qafel_mpi.kernels import gpu

        return gpu.eden_kernels(self.blocks, self.bits, self.rotations, self._least, device)
