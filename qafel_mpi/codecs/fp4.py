"""fp4: 4-bit floats in the industry's layouts, MXFP4 (a power of two for 32) and NVFP4 (an E4M3 number for 16).

OCP Microscaling Formats (MX) Specification 1.0 (2023), and NVIDIA's NVFP4 (arXiv 2509.25149). Two codes a byte, the
first in the low half, as ONNX's FLOAT4E2M1, torch's float4_e2m1fn_x2 and CUDA's __nv_fp4x2_e2m1 have them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Layout, PayloadError
from qafel_mpi.codecs.device import DeviceCodec
from qafel_mpi.kernels.numba.fp4 import Fp4Kernels
from qafel_mpi.kernels.reference_fp4 import BLOCK, MX, NV, fp4_bytes


class Fp4(DeviceCodec):
    """Payload: with NVFP4 a float32 for all; a byte of scale a block; the codes (FORMAT.md).

    format: "mxfp4" or "nvfp4". rounding: "stochastic", unbiased, with scales that leave nothing above the largest
    code; or "nearest", as the standards convert.
    """

    name, id, unbiased = "fp4", 10, True
    bits = 4
    decodes_finite = True

    def __init__(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        *,
        format: str = "mxfp4",
        rounding: str = "stochastic",
        threads: int = 1,
    ):
        super().__init__(layout, dtype)
        self.kind, self.nearest = (MX if format == "mxfp4" else NV), rounding == "nearest"
        self.unbiased = not self.nearest
        self._bytes = fp4_bytes(layout.elements, self.kind)
        self._cpu = Fp4Kernels(layout.elements, kind=self.kind, nearest=self.nearest, threads=threads)

    def payload_bytes(self) -> int:
        return self._bytes

    def fingerprint(self) -> str:
        rounding = "nearest" if self.nearest else "stochastic"
        return f"{super().fingerprint()} {'mxfp4' if self.kind == MX else 'nvfp4'} {rounding}"

    def delta(self) -> float | None:
        """Of MXFP4, from its worst block, found on a grid: the largest element at M and all others at one y, in units
        of the scale (errors and squares add up, so that all others do worst at the same y). Blocks whose scale is at
        an end of E8M0 are left out. A block of NVFP4 that is small beside the largest has no such guarantee.
        """
        return _delta(self.nearest) if self.kind == MX else None

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        bad = self._on(x.device).encode(x, out, key) if x.is_cuda else self._cpu.encode(x.numpy(), out, key)
        if bad >= 0:
            self.refuse(x)
        return self._bytes

    def validate(self, payload: np.ndarray) -> np.ndarray:
        super().validate(payload)
        if not self._cpu.valid(payload):
            raise PayloadError(f"{self.name}: a scale that no encoder writes")
        return payload

    def _kernels_on(self, device: torch.device) -> Any:
        from qafel_mpi.kernels import gpu

        return gpu.fp4_kernels(self.layout.elements, self.kind, self.nearest, device)


def _delta(nearest: bool) -> float:
    largest = np.linspace(4, 8, 801)[:-1] if nearest else np.linspace(3, 6, 601)
    others = np.concatenate((np.linspace(1e-3, 2, 2000), np.linspace(2, 6, 401)))
    of_largest, of_others = (_worst_error(y, nearest) for y in (largest, others))
    count = BLOCK[MX] - 1
    errors = of_largest[:, None] + count * of_others[None, :]
    squares = largest[:, None] ** 2 + count * others[None, :] ** 2
    # The grid's steps are not the worst points themselves.
    return float(1 - 1.01 * (errors / squares)[others[None, :] <= largest[:, None]].max())


def _worst_error(y: np.ndarray, nearest: bool) -> np.ndarray:
    """E(Q(y) − y)² of magnitudes."""
    grid = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    above = np.clip(np.searchsorted(grid, y, side="left"), 1, 7)
    low, high = grid[above - 1], grid[above]
    if nearest:
        return np.minimum(y - low, np.abs(high - y)) ** 2
    return (y - low) * np.maximum(high - y, 0)
