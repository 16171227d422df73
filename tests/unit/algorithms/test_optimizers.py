"""Server optimizers against their papers' formulas."""

import torch

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
