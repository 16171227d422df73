"""The small perceptron."""

from __future__ import annotations

import torch

from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.models.mlp import mlp
from qafel_mpi.tasks.targets import Signature


def test_the_mlp_takes_any_shape() -> None:
    module = mlp(TaskConfig(hidden=5), Signature((2, 3), 4))
    assert module(torch.zeros(7, 2, 3)).shape == (7, 4)
