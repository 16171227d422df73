"""Staleness weights s(τ); τ counts server steps from the version that a client started from."""

from __future__ import annotations

import math
from collections.abc import Callable

from qafel_mpi.algorithms.config import StalenessConfig


def staleness_weight(config: StalenessConfig) -> Callable[[int, float], float]:
    """The function s: τ ≥ 0, seconds of training -> weight that the settings name (StalenessConfig has the formulas).

    >>> s = staleness_weight(StalenessConfig(weight="polynomial", exponent=0.5))
    >>> s(0, 1.0), s(3, 1.0)
    (1.0, 0.5)
    """
    a, r, unit_s = config.exponent, config.cutoff, config.seconds
    weights: dict[str, Callable[[int, float], float]] = {
        "constant": lambda tau, _: 1.0,
        "polynomial": lambda tau, _: (1.0 + tau) ** -a,
        "flsim": lambda tau, _: ((1.0 + tau) / 2.0) ** -a,
        "nvflare": lambda tau, _: 1.0 / (1.0 + math.sqrt(tau + 1.0)),
        "cutoff": lambda tau, _: float(tau < r),
        "cosine-exp": lambda tau, _: (
            (1.0 + math.cos(math.pi * tau / r)) / 2.0 * math.exp(-a * tau) if tau < r else 0.0
        ),
        "rate": lambda _, trained_s: max(0.0, trained_s) / unit_s if math.isfinite(trained_s) else 0.0,
    }
    return weights[config.weight]
