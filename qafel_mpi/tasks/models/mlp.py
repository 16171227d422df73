"""A small multi-layer perceptron."""

from __future__ import annotations

import math

from torch import nn

from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.targets import Signature


def mlp(config: TaskConfig, data: Signature) -> nn.Module:
    """One hidden layer of `hidden` ReLUs on the flattened example."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(data.shape), config.hidden),
        nn.ReLU(),
        nn.Linear(config.hidden, data.classes),
    )
