"""Staleness weights s(τ); τ counts server steps from the version that a client started from."""

from __future__ import annotations

import math
from collections.abc import Callable

from qafel_mpi.algorithms.config import StalenessConfig


def staleness_weight(config: StalenessConfig) -> Callable[[int], float]:
    """The function s: τ ≥ 0 -> weight that the settings name (StalenessConfig states the formulas).

    >>> s = staleness_weight(StalenessConfig(weight="polynomial", exponent=0.5))
    >>> s(0), s(3)
    (1.0, 0.5)
    """
    a, r = config.exponent, config.cutoff
    weights: dict[str, Callable[[int], float]] = {
        "constant": lambda tau: 1.0,
        "polynomial": lambda tau: (1.0 + tau) ** -a,
        "flsim": lambda tau: ((1.0 + tau) / 2.0) ** -a,
        "nvflare": lambda tau: 1.0 / (1.0 + math.sqrt(tau + 1.0)),
        "cutoff": lambda tau: float(tau < r),
        "cosine-exp": lambda tau: (
            (1.0 + math.cos(math.pi * tau / r)) / 2.0 * math.exp(-a * tau) if tau < r else 0.0
        ),
    }
    return weights[config.weight]
