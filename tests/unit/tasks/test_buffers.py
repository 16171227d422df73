"""A policy for each buffer: local, averaged, or averaged and mended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qafel_mpi.codecs import build as build_codec
from qafel_mpi.codecs.config import CodecConfig
from qafel_mpi.tasks import DataError
from tests.unit.tasks.own_models import Around, data, delta_of, task_of


def parametrized() -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(nn.Linear(6, 16))


def by_hook() -> nn.Module:
    return nn.utils.spectral_norm(nn.Linear(6, 16))


def federated(task: Any, x: Tensor, rounds: int, bits: int = 4) -> Tensor:
    """Rounds of the mean of all clients' updates, each quantized."""
    codec = build_codec(CodecConfig(codec="qsgd", bits=bits), task.layout, torch.float32)
    payload = torch.zeros(codec.payload_bytes(), dtype=torch.uint8).numpy()
    for key in range(rounds):
        total = torch.zeros_like(x)
        for client in range(task.clients):
            codec.encode(delta_of(task, client, x, key), payload, 10 * key + client)
            codec.accumulate(payload, total, 1 / task.clients, 10 * key + client)
        x = x + total
    return x


@pytest.mark.parametrize("normed", [parametrized, by_hook])
def test_the_singular_vectors_of_spectral_norm_keep_length_one_and_the_model_learns(
    normed: Callable[[], nn.Module],
) -> None:
    def network() -> nn.Module:
        return nn.Sequential(normed(), nn.ReLU(), nn.Linear(16, 3))

    task = task_of(network, sizes=(60, 60, 60), dataset=data(180), learning_rate=0.2, local_steps=5)
    assert sum(name.endswith(("_u", "_v")) for name in task.layout.names) == 2
    x = task.initial(0)
    before = task.evaluate(x).accuracy
    x = federated(task, x, 12)
    task.evaluate(x)
    lengths = [float(b.norm()) for name, b in task.flat.module.named_buffers() if name.endswith(("_u", "_v"))]
    assert lengths == pytest.approx([1, 1], abs=1e-5)
    assert task.evaluate(x).accuracy > max(0.85, before)


class WithPolicy(Around):
    """A direction of length 1, a statistic that stays at home, and one that is averaged."""

    direction: Tensor
    home: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("direction", torch.tensor([1.0, 0, 0, 0, 0, 0]))
        self.register_buffer("home", torch.zeros(6))
        self.register_buffer("late", torch.zeros(2))
        self.buffer_policy = {"direction": lambda v: v / v.norm(), "home": "local", "late": "averaged"}

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.direction += x.detach().mean(0)
            self.home += 1
        return self.linear(x * self.direction + self.home)


def test_a_module_gives_its_own_buffers_a_policy() -> None:
    task = task_of(WithPolicy)
    assert task.layout.names == ("linear.weight", "linear.bias", "direction", "late")
    x = task.initial(0)
    x += delta_of(task, 0, x)
    task.evaluate(x)
    module: Any = task.flat.module
    assert float(module.direction.norm()) == pytest.approx(1, abs=1e-6)
    assert float(x[-8:-2].norm()) > 1.5, "the vector keeps the average; what the model sees is mended"
    assert not module.home.any()


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"nothing": "local"}, "there is no buffer 'nothing'"),
        ({"home": "shared"}, "'home' has 'shared'; it is 'local', 'averaged' or a function"),
        ({"count": "averaged"}, "'count' is torch.int64, and only floats are averaged"),
    ],
)
def test_a_policy_that_is_none_is_refused(policy: dict[str, Any], message: str) -> None:
    class Wrong(Around):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("home", torch.zeros(6))
            self.register_buffer("count", torch.tensor(0))
            self.buffer_policy = policy

    with pytest.raises(DataError, match=message):
        task_of(Wrong)
