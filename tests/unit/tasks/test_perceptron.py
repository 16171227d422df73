"""The kernel of the bundled mlp: torch's SGD, the same bits in any company, and only where it suits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qafel_mpi.tasks import build
from qafel_mpi.tasks.config import ClientConfig, TaskConfig
from qafel_mpi.tasks.datasets import Dataset
from qafel_mpi.tasks.neural import NeuralTask
from tests.unit.tasks.own_models import dealt

CLIENT = {"local_epochs": 2, "batch_size": 8, "momentum": 0.9, "weight_decay": 0.01}


def task_of(client: dict[str, Any] | None = None, **settings: Any) -> NeuralTask:
    described = {
        "dataset": "synthetic",
        "examples": 300,
        "clients": 12,
        "shape": [6],
        "classes": 3,
        "hidden": 7,
    }
    described |= {"model": "mlp", "partition": {"kind": "dirichlet", "alpha": 0.5}}
    made = build(
        TaskConfig.model_validate(described | settings),
        ClientConfig.model_validate(CLIENT | (client or {})),
        seed=0,
    )
    assert isinstance(made, NeuralTask)
    return made


def trained(task: NeuralTask, client: int, seed: int) -> tuple[Tensor, float]:
    delta = torch.empty(task.layout.elements, dtype=task.dtype)
    return delta, task.train(client, task.initial(0), delta, seed).loss


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("features", "hidden", "classes"), [(1, 1, 2), (3, 4, 2), (5, 7, 10), (64, 64, 10)], ids=str
)
def test_it_is_autograds_sgd(dtype: str, features: int, hidden: int, classes: int) -> None:
    task = task_of(shape=[features], hidden=hidden, classes=classes, dtype=dtype)
    assert task.same_bits_together
    bound = 2e-5 if dtype == "float32" else 1e-12
    for client in range(4):
        delta, loss = trained(task, client, 100 + client)
        reference = torch.empty_like(delta)
        plan = list(task._batches(client, 100 + client))
        mean, steps = task.train_on(plan, task.initial(0), reference, 0)
        torch.testing.assert_close(delta, reference, rtol=bound, atol=bound)
        assert (loss, steps) == (pytest.approx(mean, rel=bound), len(plan))


def test_a_client_gets_the_same_bits_alone_and_in_any_company() -> None:
    task = task_of()
    assert len({len(list(task._batches(c, 0))) for c in range(12)}) > 3, (
        "clients with different numbers of steps"
    )
    alone = torch.stack([trained(task, c, c)[0] for c in range(12)])
    for clients in ([*range(12)], [7, 3], [5, 2, 11, 0, 9]):
        deltas = torch.empty(len(clients), task.layout.elements)
        task.train_together(clients, task.initial(0), deltas, clients)
        assert torch.equal(deltas, alone[clients])


def test_it_sees_pixels_as_the_model_does() -> None:
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (40, 3, 3), dtype=np.uint8)
    data = Dataset(pixels, rng.integers(0, 4, 40), classes=4, scale=1 / 127.5, shift=-1.0)

    def make() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 4))

    client = ClientConfig.model_validate(CLIENT)
    task = NeuralTask(
        make,
        data,
        dealt(25, 15),
        client,
        dtype=torch.float32,
        device=torch.device("cpu"),
        seed=0,
        mlp=True,
        own=False,
    )
    delta, _ = trained(task, 1, 3)
    reference = torch.empty_like(delta)
    task.train_on(task._batches(1, 3), task.initial(0), reference, 0)
    torch.testing.assert_close(delta, reference, rtol=1e-4, atol=1e-6)


def test_what_is_not_a_number_is_not_hidden() -> None:
    task = task_of()
    start, delta = task.initial(0), torch.empty(task.layout.elements)
    start[0] = float("nan")
    assert np.isnan(task.train(0, start, delta, 0).loss)
    assert delta.isnan().any()


@pytest.mark.parametrize(
    "client", [{"optimizer": "adamw", "momentum": 0.0}, {"clip_norm": 1.0}, {"trainable": "3"}], ids=str
)
def test_other_trainings_are_left_to_torch(client: dict[str, Any]) -> None:
    assert not task_of(client).same_bits_together
    assert task_of().same_bits_together


def test_a_large_layer_is_left_to_torch() -> None:
    assert not task_of(shape=[1000], hidden=64).same_bits_together
