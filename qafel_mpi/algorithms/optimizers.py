"""Server optimizers: they move x along the aggregated update, which plays the role of minus a gradient.

motion(x, total, …) is a step as the kernels make it, piece by piece (kernels.numba.moving): x and total are (d,), the
direction is total · factor, rate is this step's η_g. reference_step.py has the arithmetic.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.algorithms.config import ServerConfig
from qafel_mpi.kernels.memory import vector_like
from qafel_mpi.kernels.numba.moving import Motion, Mover
from qafel_mpi.kernels.numba.moving_lanes import ADAM, MOMENTUM, NESTEROV
from qafel_mpi.kernels.numba.moving_lanes import SGD as PLAIN
from qafel_mpi.kernels.state import State, restore_array


class SGD:
    """x += η_g · m, m = β m + g: heavy ball without dampening, as torch.optim.SGD (β = 0: x += η_g g).

    With Nesterov's momentum x += η_g (g + β m), as there: DiLoCo's outer optimizer (arXiv 2311.08105).
    """

    def __init__(self, config: ServerConfig, x: Tensor):
        self.beta = config.momentum
        self.m = vector_like(x).zero_() if self.beta else None
        self._nothing = np.empty(0, dtype=x.numpy().dtype)
        self._moved = self._nothing if self.m is None else self.m.numpy()
        self._kind = PLAIN if self.m is None else NESTEROV if config.nesterov else MOMENTUM

    def motion(self, x: np.ndarray, total: np.ndarray, *, factor: float, zero: float, rate: float) -> Motion:
        """See Motion."""
        numbers = np.array((zero, factor, self.beta, rate, 0.0), dtype=x.dtype)
        return Motion(self._kind, total, x, self._moved, self._nothing, numbers)

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
        self.betas = config.beta1, config.beta2
        self.m, self.v, self.root = vector_like(x).zero_(), vector_like(x).zero_(), vector_like(x)
        self.largest: Tensor | None = None
        self._nothing = np.empty(0, dtype=x.numpy().dtype)
        self._mover = Mover(x.numel(), torch.get_num_threads())

    def motion(self, x: np.ndarray, total: np.ndarray, *, factor: float, zero: float, rate: float) -> Motion:
        """See Motion. m and v move at once."""
        m, v = self.m.numpy(), self.v.numpy()
        largest = self._nothing if self.largest is None else self.largest.numpy()
        self._mover.moments(total, m, v, largest, zero=zero, factor=factor, betas=self.betas)
        # torch's own root: on some processors its last bit is another than IEEE 754's.
        torch.sqrt(self.v if self.largest is None else self.largest, out=self.root)
        numbers = np.array((0.0, 1.0, 0.0, rate, self.epsilon), dtype=m.dtype)
        return Motion(ADAM, self._nothing, x, m, self.root.numpy(), numbers)

    def state(self) -> State:
        return {"m": self.m.numpy(), "v": self.v.numpy()}

    def restore(self, state: State) -> None:
        restore_array(self.m.numpy(), state["m"])
        restore_array(self.v.numpy(), state["v"])


class AMSGrad(Adam):
    """Adam with the largest v so far: x += η_g · m / (√v̂ + ε), v̂ = max(v̂, v).

    Wang et al., FADAS (ICML 2024, arXiv 2407.18365), Algorithm 1.
    """

    largest: Tensor

    def __init__(self, config: ServerConfig, x: Tensor):
        super().__init__(config, x)
        self.largest = vector_like(x).zero_()

    def state(self) -> State:
        return super().state() | {"largest": self.largest.numpy()}

    def restore(self, state: State) -> None:
        super().restore(state)
        restore_array(self.largest.numpy(), state["largest"])


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
