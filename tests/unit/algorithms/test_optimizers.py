"""Server optimizers against their papers' formulas."""

import numpy as np
import pytest
import torch

from qafel_mpi.algorithms.client import Replica
from qafel_mpi.algorithms.config import ServerConfig, StalenessConfig
from qafel_mpi.algorithms.presets import PRESETS
from qafel_mpi.algorithms.server import Server, Update
from qafel_mpi.codecs import CodecConfig, Layout, build
from tests.unit.algorithms.made import D, make, start, step, upload


def test_adam_is_reddis():
    server, up, down = make(optimizer="adam", learning_rate=0.1, beta1=0.9, beta2=0.99, epsilon=1e-3)
    x, m, v = start().double(), torch.zeros(D).double(), torch.zeros(D).double()
    for t in range(5):
        delta = start(t + 1)
        upload(server, up, delta)
        step(server, down)
        g = delta.double()
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        x += 0.1 * m / (v.sqrt() + 1e-3)
        assert torch.allclose(server.x.double(), x, atol=1e-5)


@pytest.mark.parametrize(
    ("delay_rate", "last"), [("divided", (13 / 3, 10 / 3)), ("capped", (49 / 12, 17 / 6))]
)
def test_fadas_three_steps_by_hand(delay_rate, last):
    """K = 1, η = 4, β1 = ½, β2 = ¾, ε = 1, τ_c = 1, x = (0, 0); updates (4, 0), (0, 4), (0, 0), the last with τ = 2.

    1: m = ½·(4, 0) = (2, 0); v = ¼·(16, 0) = (4, 0) = v̂; x = 4·(2/(2 + 1), 0) = (8/3, 0).
    2: m = ½·(2, 0) + ½·(0, 4) = (1, 2); v = ¾·(4, 0) + ¼·(0, 16) = (3, 4); v̂ = (4, 4), where √v would give another x;
       x = (8/3, 0) + 4·(1/3, 2/3) = (4, 8/3).
    3: m = (½, 1); v = (9/4, 3); v̂ = (4, 4). divided: η = 4/2; x = (4, 8/3) + 2·(1/6, 1/3) = (13/3, 10/3).
       capped: η = min(4, 1/2); x = (4, 8/3) + ½·(1/6, 1/3) = (49/12, 17/6).
    """
    layout = Layout(("w",), ((2,),))
    full = build(CodecConfig(codec="identity"), layout)
    preset = PRESETS["fadas"]
    own = {"buffer_size": 1, "learning_rate": 4.0, "beta1": 0.5, "beta2": 0.75, "epsilon": 1.0}
    config = ServerConfig(**preset["server"] | own | {"delay_rate": delay_rate})
    server = Server(
        torch.zeros(2), full, Replica(torch.zeros(2), full, assigns=True), config,
        StalenessConfig(**preset["staleness"]), seed=0, clients=1,
    )  # fmt: skip
    models = [(8 / 3, 0), (4, 8 / 3), last]
    for delta, version, x in zip([(4, 0), (0, 4), (0, 0)], [0, 1, 0], models, strict=True):
        payload = np.array(delta, "<f4").view(np.uint8)
        server.receive(Update(0, version, payload, 0))
        server.step(np.zeros(8, np.uint8))
        assert server.x.tolist() == pytest.approx(x, rel=1e-6)


def test_a_step_s_rate_follows_the_stalest_update_of_its_buffer_alone():
    server, up, down = make(buffer_size=2, learning_rate=1.0, delay_rate="divided")
    for versions, rate in (((0, 0), 1.0), ((0, 1), 1.0), ((0, 2), 1 / 2), ((3, 3), 1.0)):
        before = server.x.clone()
        for version in versions:
            upload(server, up, torch.ones(D), version=version)
        step(server, down)
        assert torch.allclose(server.x - before, torch.full((D,), rate), atol=1e-6)
