"""What is minimised and reported: the loss of the data set's kind of targets, or one of the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from qafel_mpi.tasks import targets
from qafel_mpi.tasks.base import Evaluation
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.make import described
from qafel_mpi.tasks.targets import Targets

OwnLoss = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """kind: of the targets. classes: outputs of the model. own: loss(outputs, y) -> the batch's mean, or (n,)."""

    kind: Targets
    classes: int
    own: OwnLoss | None = None

    def loss(self, outputs: Any, y: Tensor) -> Tensor:
        """The mean over a batch."""
        if self.own is None:
            return targets.loss(self.kind, outputs, y)
        value = self.own(outputs, y)
        return value.mean() if value.dim() else value

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Each example's, (n,)."""
        if self.own is None:
            return targets.loss(self.kind, outputs, y, "none")
        return self.own(outputs, y)

    def total(self, outputs: Any, y: Tensor) -> Tensor:
        """The sum over a batch."""
        return self.losses(outputs, y).sum() if self.own is None else self.loss(outputs, y) * len(y)

    def evaluation(self, outputs: Any, y: Tensor) -> Evaluation:
        """With a loss of one's own there is an accuracy where the outputs are those of the kind."""
        loss = float(self.loss(outputs, y))
        fits = self.own is None or self._fits(outputs, y)
        accuracy = targets.accuracy(self.kind, outputs, y) if fits else math.nan
        return Evaluation(loss, accuracy, len(y), targets.answers(self.kind, y))

    def _fits(self, outputs: Any, y: Tensor) -> bool:
        return isinstance(outputs, Tensor) and outputs.shape == self.wanted(y)

    def wanted(self, y: Tensor) -> tuple[int, ...]:
        """The shape of a model's outputs for the examples of y."""
        return targets.output_shape(self.kind, y, self.classes)

    def check_outputs(self, outputs: Any, y: Tensor, mode: str) -> None:
        """Raise DataError where a model gives what the loss of this kind can't take. mode: 'in training', say."""
        if self.own is not None:
            return
        what = "classes" if self.kind == "tokens" else self.kind
        wanted = f"of {self.classes} {what}; it must give one tensor of floats of shape {self.wanted(y)}"
        if not isinstance(outputs, Tensor):
            ends = "; does its forward end without a return?" if outputs is None else ""
            raise DataError(
                f"the model gives {described(outputs)} {mode} for {len(y)} examples {wanted}{ends}"
            )
        if outputs.shape != self.wanted(y):
            raise DataError(f"the model gives {tuple(outputs.shape)} {mode} for {len(y)} examples {wanted}")
        if not outputs.is_floating_point():
            raise DataError(f"the model gives {outputs.dtype} {mode} for {len(y)} examples {wanted}")

    def check_loss(self, value: Any, y: Tensor, *, trained: bool) -> None:
        """Raise DataError where a loss of one's own gives what can't be minimised. trained: of training outputs."""
        wanted = f"it must give a tensor, the mean loss of a batch or one loss an example, ({len(y)},)"
        if not isinstance(value, Tensor) or value.shape not in ((), (len(y),)):
            raise DataError(f"task.loss gave {described(value)} for {len(y)} examples; {wanted}")
        if not value.is_floating_point() or (trained and not value.requires_grad):
            raise DataError(
                f"task.loss gave {described(value)} that does not depend on the model's parameters; {wanted}"
            )
