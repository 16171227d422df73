"""transform = "rotation": a random rotation of each bucket before the quantizer, turned back after it.

It spreads what is large over its bucket, so that a quantizer with one scale a bucket loses little to outliers (Suresh
et al., ICML 2017, arXiv 1611.00429). An unbiased quantizer stays unbiased, exactly; a contraction stays one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Layout
from qafel_mpi.codecs.chain import Transform
from qafel_mpi.kernels import eager_eden
from qafel_mpi.kernels.blocks import Blocks
from qafel_mpi.kernels.numba.rotation import RotationKernels

BUCKET = 512


class Rotation(Transform):
    """Signs from the message's key, then a Hadamard transform of each bucket, orthonormal (FORMAT.md, "Rotation")."""

    name = "rotation"

    def __init__(self, layout: Layout, dtype: torch.dtype = torch.float32):
        self.layout = layout
        self.blocks = Blocks(layout.elements, BUCKET)
        self.output = Layout(("rotated",), ((1, self.blocks.padded),))
        self._cpu = RotationKernels(self.blocks, np.dtype(str(dtype).removeprefix("torch.")))

    def forward(self, x: Tensor, out: Tensor, key: int) -> None:
        if x.is_cuda:
            out.copy_(eager_eden.rotate(x, self.blocks, key))
        else:
            self._cpu.forward(x.numpy(), out.numpy(), key)

    def back(self, y: Tensor, out: Tensor, key: int) -> None:
        if y.is_cuda:
            out.copy_(eager_eden.rotate_back(y, self.blocks, key))
        else:
            self._cpu.back(y.numpy(), out.numpy(), key)
