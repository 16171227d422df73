"""What a task keeps of its data: arrays that somebody else may hold, and that it only reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from qafel_mpi import tasks
from qafel_mpi.config import load
from qafel_mpi.tasks import datasets, held
from qafel_mpi.tasks.config import ClientConfig, TaskConfig
from qafel_mpi.tasks.datasets import Dataset
from qafel_mpi.tasks.partitions import Partition

KINDS: dict[str, dict[str, Any]] = {
    "classes": {"y": np.array([0, 1, 2, 1], np.uint8), "classes": 3},
    "labels": {"y": np.eye(4, 3, dtype=np.int64), "targets": "labels"},
    "values": {"y": np.array([0.5, 1, 2, 3]), "targets": "values"},
    "pixels": {
        "x": np.arange(8, dtype=np.uint8).reshape(4, 2),
        "y": np.arange(4),
        "classes": 4,
        "scale": 0.1,
    },
    "tokens": {
        "x": np.arange(8, dtype=np.uint16).reshape(4, 2),
        "y": np.arange(8, dtype=np.uint16).reshape(4, 2),
        "classes": 9,
        "targets": "tokens",
        "vocabulary": 9,
    },
}


def frozen(make) -> held.Arrays:
    """As a host's memory gives the arrays."""
    found = make()
    for array in found.values():
        array.flags.writeable = False
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_packed_data_come_back_as_they_are_trained_with(kind):
    data = Dataset(**{"x": np.arange(8.0).reshape(4, 2)} | KINDS[kind])
    dealt = Partition(np.array([3, 1, 0, 2]), np.array([0, 1, 4]))
    found, shares = held.unpack(held.pack(data, dealt, torch.float32))
    assert (found.targets, found.classes, found.scale, found.vocabulary) == (
        data.targets,
        data.classes,
        data.scale,
        data.vocabulary,
    )
    assert np.array_equal(found.x, data.x)
    assert np.array_equal(found.y.reshape(data.y.shape), data.y)
    assert found.x.dtype == (np.float32 if data.x.dtype == np.float64 else data.x.dtype)
    assert shares.indices(1).tolist() == [1, 0, 2]


@pytest.mark.parametrize("dataset", ["digits", "synthetic"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_task_makes_no_copy_of_the_arrays_that_it_is_given(dataset, dtype):
    arrays: held.Arrays = {}

    def once(make):
        arrays.update(frozen(make))
        return arrays

    config = TaskConfig(dataset=dataset, dtype=dtype, clients=10)
    task = tasks.build(config, ClientConfig(local_steps=1), seed=0, once=once)
    for name in ("x", "y", "test_x", "test_y"):
        assert getattr(task.data, name).data_ptr() == arrays[name].ctypes.data, name


@pytest.mark.parametrize("model", ["mlp", "logistic"])
@pytest.mark.parametrize("batch", [4, "full"])
def test_training_on_read_only_arrays_gives_the_same_bits(model, batch):
    config = TaskConfig(dataset="synthetic", model=model, shape=(12,), classes=2, examples=200, clients=10)
    client = ClientConfig(local_steps=3, batch_size=batch)
    found = []
    for once in (held.here, frozen):
        task = tasks.build(config, client, seed=0, once=once)
        start, delta = task.initial(0) + 0.1, torch.zeros(task.layout.elements)
        losses = [task.train(c, start, delta, 5).loss for c in range(3)]
        found.append((losses, delta.tolist(), task.evaluate(start), task.gradient_norm_squared(start)))
    assert found[0] == found[1]


class Careless(nn.Module):
    """A model that writes into what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        return self.linear(x.mul_(0.5))


def test_a_model_that_writes_into_its_input_changes_nobody_s_data(monkeypatch):
    experiment = load("digits", ["client.together=1"])
    monkeypatch.setitem(tasks.MODELS, "mlp", lambda config, signature: Careless())
    task = tasks.build(experiment.task, experiment.client, seed=0)
    x = task.initial(0)
    before = datasets.digits(experiment.task, None, 100, 0)
    delta = torch.zeros_like(x)
    for _ in range(2):
        task.train(0, x, delta, 0)
        task.evaluate(x)
        task.gradient_norm_squared(x)
    assert np.array_equal(task.data.x.numpy(), before.x)
    assert np.array_equal(task.data.test_x.numpy(), before.test_x)


def test_every_field_of_a_data_set_that_is_no_array_comes_back() -> None:
    """Text keeps what its bits per byte are reckoned from."""
    tokens = np.zeros((4, 3), np.uint8)
    data = Dataset(tokens, tokens, 9, targets="tokens", vocabulary=9, bytes_per_token=2.5)
    dealt = Partition(np.arange(4), np.array([0, 4]))
    back, _ = held.unpack(held.pack(data, dealt, torch.float32))
    assert back.bytes_per_token == 2.5
    assert {name: getattr(back, name) for name in held.WORDS} == {
        name: getattr(data, name) for name in held.WORDS
    }
