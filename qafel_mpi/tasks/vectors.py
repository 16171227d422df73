"""A parameter vector without a model: messages of a real network's size and shapes at next to no training cost.

Client c's objective is ½‖y − m_c‖², m_c = m + shift_c, and the shifts add up to zero: one SGD step pulls y
towards m_c. f, their mean, is ½‖x − m‖² and a constant, which is left out.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Layout
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.kernels.memory import vector_like
from qafel_mpi.tasks.base import Evaluation, Poll, Task, TrainResult, poll_until_computed
from qafel_mpi.tasks.config import ClientConfig


class VectorTask(Task):
    """For communication runs. accuracy is nan: stop at a loss, uploads, steps or seconds."""

    def __init__(
        self,
        layout: Layout,
        clients: int,
        client: ClientConfig,
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
    ):
        self.layout, self.clients, self.client = layout, clients, client
        self.dtype, self.device = dtype, device
        self._target = self._normal(derive(seed, Stream.DATA))
        generator = np.random.Generator(np.random.Philox(key=derive(seed, Stream.PARTITION)))
        shifts = 0.1 * generator.standard_normal(clients)
        self._shifts = shifts - shifts.mean()
        self._y = vector_like(self._target)

    def initial(self, seed: int) -> Tensor:
        return self._normal(derive(seed, Stream.INIT))

    def examples(self, client: int) -> int:
        return 1

    def train(
        self,
        client: int,
        start: Tensor,
        delta: Tensor,
        seed: int,
        poll: Poll | None = None,
        *,
        version: int = 0,
    ) -> TrainResult:
        y, rate, shift = self._y.copy_(start), self.client.rate_at(version), float(self._shifts[client])
        y_0 = delta if delta.device == y.device else torch.empty_like(y)
        y_0.copy_(y)
        steps = self.client.steps(1)
        for _ in range(steps):
            y.lerp_(self._target, rate).add_(rate * shift)  # y += η (m + shift − y), in place
            if poll is not None:
                poll()
        delta.copy_(torch.sub(y, y_0, out=y_0))
        poll_until_computed(delta, poll)
        return TrainResult(self._half_distance(y), 1, steps)

    def evaluate(self, x: Tensor, examples: int | None = None) -> Evaluation:
        return Evaluation(self._half_distance(x.to(self.device)), float("nan"), 1)

    def gradient_norm_squared(self, x: Tensor) -> float:
        return 2 * self._half_distance(x.to(self.device)) * self.layout.elements

    def _half_distance(self, y: Tensor) -> float:
        """½‖y − m‖² an element."""
        return 0.5 * float(torch.dist(y, self._target)) ** 2 / self.layout.elements

    def _normal(self, key: int) -> Tensor:
        generator = torch.Generator().manual_seed(key & (2**63 - 1))
        return torch.randn(self.layout.elements, generator=generator, dtype=self.dtype).to(self.device)
