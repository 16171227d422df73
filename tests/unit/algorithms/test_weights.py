"""Weights of stale updates."""

import math

import pytest

from qafel_mpi.algorithms.config import StalenessConfig
from qafel_mpi.algorithms.weights import staleness_weight


@pytest.mark.parametrize(
    ("config", "tau", "weight"),
    [
        (StalenessConfig(weight="constant"), 9, 1.0),
        (StalenessConfig(weight="polynomial", exponent=0.5), 3, 0.5),
        (StalenessConfig(weight="flsim", exponent=0.5), 0, math.sqrt(2)),
        (StalenessConfig(weight="flsim", exponent=0.5), 7, 0.5),
        (StalenessConfig(weight="nvflare"), 0, 1 / 2),
        (StalenessConfig(weight="nvflare"), 3, 1 / 3),
        (StalenessConfig(weight="cutoff", cutoff=4), 3, 1.0),
        (StalenessConfig(weight="cutoff", cutoff=4), 4, 0.0),
        # ½(1 + cos 0) e^0; ½(1 + cos(π/2)) e^(−2a), a = ½; beyond R nothing.
        (StalenessConfig(weight="cosine-exp", exponent=0.5, cutoff=4), 0, 1.0),
        (StalenessConfig(weight="cosine-exp", exponent=0.5, cutoff=4), 2, 0.5 * math.exp(-1)),
        (StalenessConfig(weight="cosine-exp", exponent=0.5, cutoff=4), 4, 0.0),
    ],
)
def test_staleness_weights_are_those_of_the_field(config, tau, weight):
    assert staleness_weight(config)(tau) == pytest.approx(weight)
