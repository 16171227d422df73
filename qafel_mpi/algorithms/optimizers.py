"""Server optimizers: they move x along the aggregated update, which plays the role of minus a gradient.

step(x, direction, rate): x and direction are (d,), rate is this step's η_g.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qafel_mpi.algorithms.config import ServerConfig
from qafel_mpi.kernels.memory import vector_like
from qafel_mpi.kernels.state import State, restore_array


class SGD:
    """x += η_g · m, m = β m + g: heavy ball without dampening, as torch.optim.SGD (β = 0: x += η_g g).

    With Nesterov's momentum x += η_g (g + β m), as there: DiLoCo's outer optimizer (arXiv 2311.08105).
    """

    def __init__(self, config: ServerConfig, x: Tensor):
        self.beta, self.nesterov = config.momentum, config.nesterov
        self.m = vector_like(x).zero_() if self.beta else None

    def step(self, x: Tensor, direction: Tensor, rate: float) -> None:
        if self.m is not None:
            m = self.m.mul_(self.beta).add_(direction)
            direction = direction.add(m, alpha=self.beta) if self.nesterov else m
        x.add_(direction, alpha=rate)

    def state(self) -> State:
        return {} if self.m is None else {"m": self.m.numpy()}

    def restore(self, state: State) -> None:
        if self.m is not None:
            restore_array(self.m.numpy(), state["m"])


class Adam:
    """FedAdam: m, v as in Adam without bias correction, x += η_g · m / (√v + ε).

    Reddi et al., ICLR 2021 (arXiv 2003.00295), Algorithm 2.
    """

    def __init__(self, config: ServerConfig, x: Tensor):
        self.epsilon = config.epsilon
        self.beta1, self.beta2 = config.beta1, config.beta2
        self.m, self.v, self.scale = vector_like(x).zero_(), vector_like(x).zero_(), vector_like(x)

    def step(self, x: Tensor, direction: Tensor, rate: float) -> None:
        self.m.mul_(self.beta1).add_(direction, alpha=1 - self.beta1)
        self.v.mul_(self.beta2).addcmul_(direction, direction, value=1 - self.beta2)
        torch.sqrt(self._denominator(), out=self.scale).add_(self.epsilon)
        x.addcdiv_(self.m, self.scale, value=rate)

    def _denominator(self) -> Tensor:
        return self.v

    def state(self) -> State:
        return {"m": self.m.numpy(), "v": self.v.numpy()}

    def restore(self, state: State) -> None:
        restore_array(self.m.numpy(), state["m"])
        restore_array(self.v.numpy(), state["v"])


class AMSGrad(Adam):
    """Adam with the largest v so far: x += η_g · m / (√v̂ + ε), v̂ = max(v̂, v).

    Wang et al., FADAS (ICML 2024, arXiv 2407.18365), Algorithm 1.
    """

    def __init__(self, config: ServerConfig, x: Tensor):
        super().__init__(config, x)
        self.largest = vector_like(x).zero_()

    def state(self) -> State:
        return super().state() | {"largest": self.largest.numpy()}

    def restore(self, state: State) -> None:
        super().restore(state)
        restore_array(self.largest.numpy(), state["largest"])

    def _denominator(self) -> Tensor:
        return torch.maximum(self.largest, self.v, out=self.largest)


OPTIMIZERS: dict[str, type[SGD] | type[Adam]] = {"sgd": SGD, "adam": Adam, "amsgrad": AMSGrad}


def delayed_rate(config: ServerConfig, stalest: int) -> float:
    """η_g of a step whose buffer's stalest update is `stalest` server steps old.

    FADAS's delay-adaptive rates: η up to the threshold τ_c; beyond it η/τ, as in its authors' code ("divided"), or
    min(η, 1/τ) ("capped").
    """
    rate = config.learning_rate
    if config.delay_rate == "constant" or stalest <= config.delay_threshold:
        return rate
    return rate / stalest if config.delay_rate == "divided" else min(rate, 1.0 / stalest)
