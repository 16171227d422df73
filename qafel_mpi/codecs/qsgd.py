"""qsgd: stochastic rounding to s levels a sign, with one scale per bucket.

Alistarh et al., NeurIPS 2017 (arXiv 1610.02132), Section 3.1, with the scale per bucket and ‖v‖_∞ as an
alternative to ‖v‖₂. Unbiased.
"""

from __future__ import annotations

import math

import torch

from qafel_mpi.codecs.base import Layout
from qafel_mpi.codecs.bucketed import Bucketed
from qafel_mpi.kernels.reference import L2, LINF


class QSGD(Bucketed):
    """Codes: levels in two's complement. bits = 1 sends the sign, chosen at random so that E[±scale] = v.

    bits: s = 2^(bits−1) − 1 levels; or levels = s, in 1 + ⌈log2(s + 1)⌉ bits.
    """

    name, id, unbiased = "qsgd", 2, True

    def __init__(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        *,
        bits: int = 4,
        levels: int | None = None,
        scale: str = "linf",
        bucket: int | str = 512,
        threads: int = 1,
    ):
        super().__init__(
            layout,
            dtype,
            bits=bits if levels is None else 1 + math.ceil(math.log2(levels + 1)),
            s=max(1, 2 ** (bits - 1) - 1) if levels is None else levels,
            kind=L2 if scale == "l2" else LINF,
            bucket=bucket,
            threads=threads,
        )
        self.scale = scale

    def delta(self) -> float:
        """1 − ω, with ω the largest E‖Q(v) − v‖²/‖v‖² that any bucket of m elements can have.

        A level's rounding has variance p(1 − p), p its distance from the level below, in units of (scale/s)².
        For ‖v‖_∞ the worst bucket has one element at the scale and the others at one p below the first level;
        maximizing (m − 1)p(1 − p)/(s² + (m − 1)p²) over p gives ω = (√(1 + (m − 1)/s²) − 1)/2. For ‖v‖₂ all
        elements are equal: ω = √m/s − 1, or m/4s² where that makes p > 1/2; both are below QSGD's bound
        min(m/s², √m/s) (its Lemma 3.1). One bit: m·scale² − ‖v‖², at most (m − 1)‖v‖².
        """
        m, s = self.plan.largest_bucket, self.s
        if self.bits == 1:
            return 2.0 - m
        if self.scale == "linf":
            return 1.0 - (math.sqrt(1 + (m - 1) / s**2) - 1) / 2
        return 1.0 - (math.sqrt(m) / s - 1 if m >= 4 * s * s else m / (4 * s * s))
