"""Tasks around a module that a test makes: as `task.model = "module:function"` builds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qafel_mpi.tasks.config import ClientConfig
from qafel_mpi.tasks.datasets import Dataset
from qafel_mpi.tasks.neural import NeuralTask
from qafel_mpi.tasks.partitions import Partition

FEATURES, CLASSES = 6, 3


def data(examples: int = 60, features: int = FEATURES, classes: int = CLASSES) -> Dataset:
    """Classes around random means."""
    generator = np.random.default_rng(3)
    y = np.arange(examples) % classes
    x = generator.normal(size=(classes, features))[y] * 2 + generator.normal(size=(examples, features))
    return Dataset(x.astype(np.float32), y, classes, x[:40].astype(np.float32), y[:40])


def dealt(*sizes: int) -> Partition:
    """Clients with so many examples each, in the data's order."""
    return Partition(np.arange(sum(sizes)), np.concatenate([[0], np.cumsum(sizes)]))


def task_of(
    make: Callable[[], Any],
    *,
    sizes: Sequence[int] = (20, 20, 20),
    dataset: Dataset | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    loss: Callable[[Any, Tensor], Tensor] | None = None,
    **client: Any,
) -> NeuralTask:
    """Raises DataError as a run does. client: settings; local_steps = 3 and batch_size = 8 if not given."""
    settings: dict[str, Any] = {"local_steps": 3, "batch_size": 8} | client
    return NeuralTask(
        make,
        dataset or data(sum(sizes)),
        dealt(*sizes),
        ClientConfig.model_validate(settings),
        dtype=dtype,
        device=torch.device("cpu"),
        seed=seed,
        loss=loss,
    )


def delta_of(task: NeuralTask, client: int = 0, start: Tensor | None = None, seed: int = 1) -> Tensor:
    start = task.initial(0) if start is None else start
    delta = torch.empty_like(start)
    task.train(client, start, delta, seed)
    return delta


def linear() -> nn.Linear:
    return nn.Linear(FEATURES, CLASSES)


class Around(nn.Module):
    """A linear layer, and what a test does around it: subclasses say what."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = linear()

    def forward(self, x: Tensor) -> Any:
        return self.linear(x)
