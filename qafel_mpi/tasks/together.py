"""Several clients that start from one version, trained as one batch: the model under torch.func.vmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from qafel_mpi.own import said
from qafel_mpi.tasks.base import Poll
from qafel_mpi.tasks.config import ClientConfig
from qafel_mpi.tasks.examples import Examples
from qafel_mpi.tasks.flat import FlatModule
from qafel_mpi.tasks.objective import Objective
from qafel_mpi.tasks.optimizers import optimizer
from qafel_mpi.tasks.randomness import has_random_layers

Take = Callable[[Tensor], tuple[Tensor, Tensor]]


class Together:
    """Local SGD of B clients at once, the same as one at a time but for float rounding.

    Clients differ in the number and in the size of their batches: a short batch is padded with examples of no
    weight, and a client that has done its steps stands still.
    """

    def __init__(self, flat: FlatModule, client: ClientConfig, objective: Objective):
        self.flat, self.objective = flat, objective
        self.optimizer = optimizer(client, together=True)
        self._losses = vmap(self._loss)

    def _loss(self, weights: dict[str, Tensor], x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        """One client's batch. share: (size,), 1 / examples of the batch, 0 where it is padded."""
        outputs = functional_call(self.flat.module, weights, (x,))
        return (self.objective.losses(outputs, y) * share).sum()

    def train(
        self,
        plans: Sequence[Sequence[Tensor]],
        start: Tensor,
        deltas: Tensor,
        take: Take,
        rate: float,
        poll: Poll | None = None,
    ) -> list[float]:
        """deltas[b] = y_P − y_0 of client b; returns each one's mean loss.

        plans: a client's batches, as indices. start: (d,); deltas: (B, d). take: indices -> (x, y). rate: η_ℓ.
        poll: as in Task.train.
        """
        self.flat.load(start)
        y_0, layout = self.flat.vector, self.flat.layout
        weights = [
            y_0[a:b].view(shape).expand(len(plans), *shape).clone().requires_grad_()
            for a, b, shape in zip(layout.offsets, layout.offsets[1:], layout.shapes, strict=False)
        ]
        self.optimizer.begin(weights)
        steps = torch.tensor([len(plan) for plan in plans])
        total = torch.zeros(len(plans), dtype=y_0.dtype, device=y_0.device)
        for p in range(int(steps.max())):
            indices, share = _padded([plan[p] if p < len(plan) else plan[0][:0] for plan in plans], y_0)
            losses = self._losses(dict(zip(layout.names, weights, strict=True)), *take(indices), share)
            gradients = torch.autograd.grad(losses.sum(), weights)
            total += losses.detach()
            moving = steps > p
            self.optimizer.step(weights, gradients, rate, None if bool(moving.all()) else moving.to(y_0))
            if poll is not None:
                poll()
        for w, a, b in zip(weights, layout.offsets, layout.offsets[1:], strict=False):
            deltas[:, a:b] = w.detach().reshape(len(plans), -1) - y_0[a:b]
        return (total.cpu() / steps).tolist()


def why_not_together(
    together: Together,
    train_on: Callable[[Sequence[Tensor], Tensor, Tensor, int], tuple[float, int]],
    data: Examples,
    rate: float,
) -> str:
    """Why clients can't be trained as one batch, or an empty text where it was seen that they can.

    Two clients with different numbers of steps and of examples are trained together, and then one at a time by
    train_on: that shows what no type of a layer tells, such as a mean over the batch, padding included.
    rate: η_ℓ.
    """
    flat = together.flat
    if flat.trained != flat.layout.elements:
        return "the model has statistics that training moves, which one batch does not keep apart"
    if flat.counts:
        return "the model counts in training, and one batch would not keep the counts apart"
    if has_random_layers(flat.module):
        return "the model's dropout would draw other numbers than one client at a time"
    plans = [[torch.arange(n, device=data.device) % len(data) for n in sizes] for sizes in ((3, 2), (2,))]
    x0, deltas = flat.vector.clone(), flat.vector.new_empty(2, flat.layout.elements)
    flat.train_mode()
    try:
        together.train(plans, x0, deltas, data.taken, rate)
    except Exception as error:
        return f"the model can't be batched: {said(error)}"
    for plan, delta in zip(plans, deltas, strict=True):
        alone = torch.empty_like(x0)
        train_on(plan, x0, alone, 0)
        apart = torch.linalg.vector_norm(alone - delta) / torch.linalg.vector_norm(alone).clamp(min=1e-30)
        if not float(apart) <= (1e-3 if x0.dtype == torch.float32 else 1e-9):
            return f"in one batch a client learns something else (by {float(apart):.1g} of its update)"
    return ""


def _padded(batch: Sequence[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """(indices, share), both (B, size of the largest batch); padding takes example 0 with share 0."""
    lengths = torch.tensor([len(one) for one in batch], device=like.device)
    indices = torch.nn.utils.rnn.pad_sequence(list(batch), batch_first=True)
    inside = torch.arange(indices.shape[1], device=like.device) < lengths[:, None]
    return indices, inside.to(like) / lengths.clamp(min=1)[:, None]
