"""Weights of stale updates."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from qafel_mpi.algorithms.client import Replica
from qafel_mpi.algorithms.config import MOST_EXPONENT, ServerConfig, StalenessConfig
from qafel_mpi.algorithms.server import Server, Update
from qafel_mpi.algorithms.weights import staleness_weight
from qafel_mpi.codecs import CodecConfig, Layout, build
from qafel_mpi.setting import LARGEST


def test_no_exponent_makes_a_weight_that_is_no_float32():
    """flsim's s(0) = 2^a is the largest of all."""
    most = staleness_weight(StalenessConfig(weight="flsim", exponent=MOST_EXPONENT))
    assert LARGEST / 2 < most(0, 1.0) == 2.0**MOST_EXPONENT <= LARGEST
    assert most(10**6, 1.0) == 0
    with pytest.raises(ValidationError, match="less than or equal to 99"):
        StalenessConfig(weight="flsim", exponent=MOST_EXPONENT + 1)


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
    assert staleness_weight(config)(tau, 1.0) == pytest.approx(weight)


@pytest.mark.parametrize(
    ("seconds", "weight"),
    [(3.0, 1.5), (0.5, 0.25), (0.0, 0.0), (-1.0, 0.0), (math.nan, 0.0), (math.inf, 0.0)],
)
def test_the_rate_weight_is_proportional_to_the_training_time_whatever_the_staleness(seconds, weight):
    """T/T₁ with T₁ = 2: a client that is twice as fast sends twice as often, and each update counts half."""
    s = staleness_weight(StalenessConfig(weight="rate", seconds=2.0))
    assert [s(0, seconds), s(7, seconds)] == [weight, weight]


def trace_of(weight: StalenessConfig, updates) -> list[list[float]]:
    """x after each (start version, u) of two numbers, K = 1 and η_g = 1; the same x where u was dropped."""
    full = build(CodecConfig(codec="identity"), Layout(("w",), ((2,),)))
    x0 = torch.zeros(2)
    settings = ServerConfig(buffer_size=1), weight
    server = Server(x0, full, Replica(x0, full, assigns=True), *settings, seed=0, clients=2)
    trace = []
    for version, u in updates:
        server.receive(Update(0, version, np.array(u, "<f4").view(np.uint8), 0))
        if server.full:
            server.step(np.zeros(8, np.uint8))
        trace.append(server.x.tolist())
    return trace


def test_ringmaster_three_steps_by_hand():
    """R = 2: s(0) = s(1) = 1, s(2) = 0.

    1: τ = 0, u = (4, 0): x = (4, 0).
    2: from version 0, τ = 1, u = (0, 2): x = (4, 2).
       from version 0, τ = 2, u = (9, 9): dropped, x = (4, 2) and no step.
    3: from version 1, τ = 1, u = (1, −1): x = (5, 1).
    """
    updates = [(0, (4, 0)), (0, (0, 2)), (0, (9, 9)), (1, (1, -1))]
    assert trace_of(StalenessConfig(weight="cutoff", cutoff=2), updates) == [[4, 0], [4, 2], [4, 2], [5, 1]]


def test_the_cosine_gate_three_steps_by_hand():
    """R = 3, a = ½: s(τ) = ½(1 + cos(πτ/3)) e^(−τ/2).

    1: τ = 0: s = ½(1 + 1) = 1; u = (4, 0): x = (4, 0).
    2: from version 0, τ = 1: s = ½(1 + ½) e^(−½) = ¾ · 0.606531 = 0.454898; u = (0, 4): x = (4, 1.819592).
    3: from version 0, τ = 2: s = ½(1 − ½) e^(−1) = ¼ · 0.367879 = 0.091970; u = (4, 4):
       x = (4 + 0.367879, 1.819592 + 0.367879) = (4.367879, 2.187471).
       from version 0, τ = 3: dropped, and no step.
    """
    weight = StalenessConfig(weight="cosine-exp", exponent=0.5, cutoff=3)
    one, two, three, dropped = trace_of(weight, [(0, (4, 0)), (0, (0, 4)), (0, (4, 4)), (0, (9, 9))])
    assert one == [4, 0]
    assert two == pytest.approx([4, 1.819592])
    assert three == dropped == pytest.approx([4.367879, 2.187471])


def test_rescaled_asgd_gives_a_fast_and_a_slow_client_the_same_share():
    """K = 1, η_g = ½, T₁ = 2 s, two numbers. Client 0 trains for 1 s (s = ½), client 1 for 2 s (s = 1).

    1: client 0, u = (4, 0): x = ½·½·(4, 0) = (1, 0).
    2: client 0 again, u = (4, 0), τ = 0: x = (2, 0).
    3: client 1, u = (0, 4), τ = 2: x = (2, 0) + ½·1·(0, 4) = (2, 2). One cycle moved x as far for either.
    """
    full = build(CodecConfig(codec="identity"), Layout(("w",), ((2,),)))
    settings = ServerConfig(buffer_size=1, learning_rate=0.5), StalenessConfig(weight="rate", seconds=2.0)
    x0 = torch.zeros(2)
    server = Server(x0, full, Replica(x0, full, assigns=True), *settings, seed=0, clients=2)
    trace = []
    for client, version, seconds, u in ((0, 0, 1.0, (4, 0)), (0, 1, 1.0, (4, 0)), (1, 0, 2.0, (0, 4))):
        server.receive(Update(client, version, np.array(u, "<f4").view(np.uint8), 0, 1, seconds))
        server.step(np.zeros(8, np.uint8))
        trace.append(server.x.tolist())
    assert trace == [[1, 0], [2, 0], [2, 2]]
