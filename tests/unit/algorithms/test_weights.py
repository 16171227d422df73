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
    ],
)
def test_staleness_weights_are_those_of_the_field(config, tau, weight):
    assert staleness_weight(config)(tau) == pytest.approx(weight)
