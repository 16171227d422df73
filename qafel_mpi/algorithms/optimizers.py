"""Server optimizers: they move x along the aggregated update, which plays the role of minus a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from qafel_mpi.algorithms.config import ServerConfig
from qafel_mpi.kernels.memory import vector_like


class SGD:
    """x += η_g · m, m = β m + g: heavy ball without dampening, as torch.optim.SGD (β = 0: x += η_g g)."""

    def __init__(self, config: ServerConfig, x: Tensor):
        self.learning_rate, self.beta = config.learning_rate, config.momentum
        self.m = vector_like(x).zero_() if self.beta else None

    def step(self, x: Tensor, direction: Tensor) -> None:
        if self.m is not None:
            direction = self.m.mul_(self.beta).add_(direction)
        x.add_(direction, alpha=self.learning_rate)


class Adam:
    """FedAdam: m, v as in Adam without bias correction, x += η_g · m / (√v + ε).

    Reddi et al., ICLR 2021 (arXiv 2003.00295), Algorithm 2.
    """

    def __init__(self, config: ServerConfig, x: Tensor):
        self.learning_rate, self.epsilon = config.learning_rate, config.epsilon
        self.beta1, self.beta2 = config.beta1, config.beta2
        self.m, self.v, self.scale = vector_like(x).zero_(), vector_like(x).zero_(), vector_like(x)

    def step(self, x: Tensor, direction: Tensor) -> None:
        self.m.mul_(self.beta1).add_(direction, alpha=1 - self.beta1)
        self.v.mul_(self.beta2).addcmul_(direction, direction, value=1 - self.beta2)
        torch.sqrt(self.v, out=self.scale).add_(self.epsilon)
        x.addcdiv_(self.m, self.scale, value=self.learning_rate)


OPTIMIZERS: dict[str, type[SGD] | type[Adam]] = {"sgd": SGD, "adam": Adam}
