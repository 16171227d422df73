"""Compiled local SGD of the bundled mlp: no autograd, and no call into torch for a step of a small model.

Measured on the CPU with digits (4,810 parameters, 14 examples a client): some 10 us a client, where autograd takes
200 us one at a time, and vmap 70 us in batches of 32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from qafel_mpi.tasks import perceptron_kernels as kernels
from qafel_mpi.tasks.base import Poll
from qafel_mpi.tasks.config import ClientConfig
from qafel_mpi.tasks.examples import Examples
from qafel_mpi.tasks.flat import FlatModule
from qafel_mpi.tasks.objective import Objective

MOST_ELEMENTS = 50_000  # of the vector: in larger layers torch's matrix products are faster


def suits(flat: FlatModule, client: ClientConfig, data: Examples, objective: Objective) -> bool:
    """Whether the kernel does what these settings ask for, given that the module is the bundled mlp."""
    return (
        objective.own is None
        and data.device.type == "cpu"
        and data.kind == "classes"
        and not data.tokens
        and flat.layout.elements <= MOST_ELEMENTS
        and flat.trained == flat.layout.elements
        and client.optimizer == "sgd"
        and client.clip_norm is None
        and client.trainable is None
        and client.autocast is None
    )


class Perceptron:
    """Local SGD of several clients in one call of the kernel a step. Each gets the bits that it gets alone."""

    def __init__(self, flat: FlatModule, client: ClientConfig, data: Examples):
        self.client = client
        self.hidden = flat.layout.shapes[0][0]
        self._x = data.x.reshape(len(data), -1).numpy()
        self._y = data.y.numpy()
        number = flat.vector.numpy().dtype.type
        self._number, self._scale, self._shift = number, number(data.scale), number(data.shift)

    def train(
        self,
        plans: Sequence[Sequence[Tensor]],
        start: Tensor,
        deltas: Tensor,
        rate: float,
        poll: Poll | None = None,
    ) -> list[float]:
        """deltas[b] = y_P - y_0 of client b; returns each one's mean loss.

        plans: a client's batches, as indices of examples. start: (d,); deltas: (B, d). rate: η_ℓ. poll: as in
        Task.train.
        """
        number, momentum = self._number, self.client.momentum
        y_0 = start.numpy(force=True).astype(number)  # a copy: start may move on in a poll
        weights = deltas.numpy()
        weights[:] = y_0
        velocities = np.zeros(weights.shape if momentum else (0, 0), number)
        losses = np.zeros(len(plans))
        for p in range(max(map(len, plans))):
            batches = [plan[p].numpy() for plan in plans if p < len(plan)]
            sizes = np.array([len(plan[p]) if p < len(plan) else 0 for plan in plans])
            kernels.step(
                self._x,
                self._y,
                self._scale,
                self._shift,
                batches[0] if len(batches) == 1 else np.concatenate(batches),
                np.concatenate(([0], sizes.cumsum())),
                (1 / np.maximum(sizes, 1)).astype(number),
                self.hidden,
                weights,
                velocities,
                number(momentum),
                number(self.client.weight_decay),
                number(rate),
                losses,
            )
            if poll is not None:
                poll()
        weights -= y_0
        return [loss / len(plan) for loss, plan in zip(losses.tolist(), plans, strict=True)]
