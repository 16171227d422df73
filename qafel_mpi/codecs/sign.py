"""sign: one bit a coordinate, scaled by the bucket's mean magnitude.

Karimireddy et al., ICML 2019 (arXiv 1901.09847): Q(v) = (‖v‖₁/m) sign(v), the best multiple of sign(v). Biased.
"""

from __future__ import annotations

import torch

from qafel_mpi.codecs.base import Layout
from qafel_mpi.codecs.bucketed import Bucketed
from qafel_mpi.kernels.reference import MEAN


class Sign(Bucketed):
    """Codes: one bit, 1 where the element is negative."""

    name, id, unbiased = "sign", 6, False

    def __init__(
        self, layout: Layout, dtype: torch.dtype = torch.float32, *, bucket: int | str = 512, threads: int = 1
    ):
        super().__init__(layout, dtype, bits=1, s=1, kind=MEAN, bucket=bucket, threads=threads)

    def delta(self) -> float:
        """‖Q(v) − v‖² = ‖v‖² − ‖v‖₁²/m, and ‖v‖₁ ≥ ‖v‖₂: δ = 1/m, m the largest bucket."""
        return 1.0 / self.plan.largest_bucket
