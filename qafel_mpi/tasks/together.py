"""Several clients that start from one version, trained as one batch: the model under torch.func.vmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from qafel_mpi.tasks import targets
from qafel_mpi.tasks.config import ClientConfig
from qafel_mpi.tasks.flat import FlatModule

Take = Callable[[Tensor], tuple[Tensor, Tensor]]


class Together:
    """Local SGD of B clients at once, the same as one at a time but for float rounding.

    Clients differ in the number and in the size of their batches: a short batch is padded with examples of no
    weight, and a client that has done its steps stands still.
    """

    def __init__(self, flat: FlatModule, client: ClientConfig, kind: targets.Targets):
        self.flat, self.client, self.kind = flat, client, kind
        self._losses = vmap(self._loss)

    def _loss(self, weights: dict[str, Tensor], x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        """One client's batch. share: (size,), 1 / examples of the batch, 0 where it is padded."""
        outputs = functional_call(self.flat.module, weights, (x,))
        return (targets.loss(self.kind, outputs, y, "none") * share).sum()

    def train(
        self, plans: Sequence[Sequence[Tensor]], start: Tensor, deltas: Tensor, take: Take
    ) -> list[float]:
        """deltas[b] = y_P − y_0 of client b; returns each one's mean loss.

        plans: a client's batches, as indices. start: (d,); deltas: (B, d). take: indices -> (x, y).
        """
        self.flat.load(start)
        y_0, layout = self.flat.vector, self.flat.layout
        weights = [
            y_0[a:b].view(shape).expand(len(plans), *shape).clone().requires_grad_()
            for a, b, shape in zip(layout.offsets, layout.offsets[1:], layout.shapes, strict=False)
        ]
        velocities = [torch.zeros_like(w) for w in weights] if self.client.momentum else None
        steps = torch.tensor([len(plan) for plan in plans])
        total = torch.zeros(len(plans), dtype=y_0.dtype, device=y_0.device)
        for p in range(int(steps.max())):
            indices, share = _padded([plan[p] if p < len(plan) else plan[0][:0] for plan in plans], y_0)
            losses = self._losses(dict(zip(layout.names, weights, strict=True)), *take(indices), share)
            gradients = torch.autograd.grad(losses.sum(), weights)
            total += losses.detach()
            moving = steps > p
            self._descend(weights, gradients, velocities, None if bool(moving.all()) else moving.to(y_0))
        for w, a, b in zip(weights, layout.offsets, layout.offsets[1:], strict=False):
            deltas[:, a:b] = w.detach().reshape(len(plans), -1) - y_0[a:b]
        return (total.cpu() / steps).tolist()

    @torch.no_grad()
    def _descend(
        self,
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor],
        velocities: Sequence[Tensor] | None,
        moving: Tensor | None,
    ) -> None:
        """moving: (B,), 1 for a client that has a batch in this step, 0 for one that stands still; None: all do."""
        for k, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            if self.client.weight_decay:
                gradient = gradient.add(weight, alpha=self.client.weight_decay)
            if velocities is not None:
                gradient = velocities[k].mul_(self.client.momentum).add_(gradient)
            if moving is not None:
                gradient = gradient * moving.view(-1, *[1] * (gradient.dim() - 1))
            weight.add_(gradient, alpha=-self.client.learning_rate)


def _padded(batch: Sequence[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """(indices, share), both (B, size of the largest batch); padding takes example 0 with share 0."""
    lengths = torch.tensor([len(one) for one in batch], device=like.device)
    indices = torch.nn.utils.rnn.pad_sequence(list(batch), batch_first=True)
    inside = torch.arange(indices.shape[1], device=like.device) < lengths[:, None]
    return indices, inside.to(like) / lengths.clamp(min=1)[:, None]
