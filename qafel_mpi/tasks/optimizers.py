"""Local optimizers on flat tensors: one client's weights, or those of several clients that train as one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from qafel_mpi.tasks.config import ClientConfig


class LocalOptimizer(ABC):
    """Steps in place on a list of tensors. Its state begins anew with every training: clients are stateless.

    together: the first dimension of every tensor is that of clients, who are clipped each by its own norm.
    """

    def __init__(self, client: ClientConfig, *, together: bool = False):
        self.client, self.together = client, together

    def begin(self, weights: Sequence[Tensor]) -> None:
        """Before a training."""
        self.state: list[list[Tensor]] = [[torch.zeros_like(w) for w in weights] for _ in range(self.kept)]
        self.steps = 0

    @property
    @abstractmethod
    def kept(self) -> int:
        """Tensors that are kept for each weight."""

    @torch.no_grad()
    def step(
        self,
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor],
        rate: float,
        moving: Tensor | None = None,
    ) -> None:
        """One step; the gradients are overwritten. rate: η_ℓ. moving: (B,), 0 for clients that stand still."""
        self.steps += 1
        if self.client.clip_norm is not None:
            self._clip(gradients, self.client.clip_norm)
        for k, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            still = None if moving is None else moving.view(-1, *[1] * (gradient.dim() - 1))
            self.move(k, weight, gradient, rate, still)

    @abstractmethod
    def move(self, k: int, weight: Tensor, gradient: Tensor, rate: float, moving: Tensor | None) -> None:
        """The step of weight number k."""

    def _clip(self, gradients: Sequence[Tensor], most: float) -> None:
        """Scale the gradients down to this 2-norm, over all tensors of a client (Pascanu et al. 2013)."""
        of_each = [g.flatten(1).square().sum(1) if self.together else g.square().sum() for g in gradients]
        norms = torch.stack(of_each).sum(0).sqrt()
        factors = (most / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)) if self.together else factors)


class SGD(LocalOptimizer):
    """y ← y − η·v, v ← momentum·v + gradient + weight_decay·y: torch's, without dampening."""

    @property
    def kept(self) -> int:
        return 1 if self.client.momentum else 0

    def move(self, k: int, weight: Tensor, gradient: Tensor, rate: float, moving: Tensor | None) -> None:
        if self.client.weight_decay:
            gradient.add_(weight, alpha=self.client.weight_decay)
        if self.kept:
            gradient = self.state[0][k].mul_(self.client.momentum).add_(gradient)
        if moving is not None:
            gradient = gradient * moving
        weight.add_(gradient, alpha=-rate)


class AdamW(LocalOptimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), as torch.optim.AdamW has it."""

    kept = 2

    def move(self, k: int, weight: Tensor, gradient: Tensor, rate: float, moving: Tensor | None) -> None:
        beta1, beta2 = self.client.betas or (0.9, 0.999)
        mean, square = self.state[0][k], self.state[1][k]
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (square.sqrt() / (1 - beta2**self.steps) ** 0.5).add_(self.client.epsilon or 1e-8)
        step = mean / root
        step.mul_(rate / (1 - beta1**self.steps)).add_(weight, alpha=rate * self.client.weight_decay)
        weight.sub_(step if moving is None else step.mul_(moving))


OPTIMIZERS: dict[str, type[LocalOptimizer]] = {"sgd": SGD, "adamw": AdamW}


def optimizer(client: ClientConfig, *, together: bool = False) -> LocalOptimizer:
    """The one that client.optimizer names."""
    return OPTIMIZERS[client.optimizer](client, together=together)
