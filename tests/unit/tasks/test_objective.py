"""A loss of the user's own is minimised and reported; what it gives is checked."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from qafel_mpi.tasks import DataError
from tests.unit.tasks.own_models import Around, delta_of, linear, task_of


def smoothed(outputs: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(outputs, y, label_smoothing=0.2)


def of_each(outputs: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(outputs, y, label_smoothing=0.2, reduction="none")


@pytest.mark.parametrize("loss", [smoothed, of_each])
def test_a_loss_of_ones_own_is_minimised_and_reported(loss: Any) -> None:
    task = task_of(linear, loss=loss, local_steps=20, learning_rate=0.2)
    x = task.initial(0)
    before = task.evaluate(x)
    task.flat.load(x)
    outputs = task.flat.module.eval()(task.data.test_x).detach()
    assert before.loss == pytest.approx(float(smoothed(outputs, task.data.test_y)), rel=1e-5)
    after = task.evaluate(x + delta_of(task, 0, x))
    assert after.loss < before.loss
    assert after.accuracy > before.accuracy
    assert not torch.equal(
        delta_of(task, 0, x), delta_of(task_of(linear, local_steps=20, learning_rate=0.2), 0, x)
    )
    assert task.gradient_norm_squared(x) > 0


def test_its_outputs_may_be_whatever_it_takes() -> None:
    class Pair(Around):
        def forward(self, x: Tensor) -> Any:
            return {"logits": self.linear(x), "penalty": self.linear.weight.square().sum()}

    task = task_of(
        Pair, loss=lambda outputs, y: cross_entropy(outputs["logits"], y) + 0.1 * outputs["penalty"]
    )
    x = task.initial(0)
    assert delta_of(task, 0, x).any()
    assert math.isnan(task.evaluate(x).accuracy)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda outputs, y: None, r"task.loss gave None for 2 examples; it must give a tensor"),
        (lambda outputs, y: outputs, r"gave a tensor of shape \(2, 3\)"),
        (lambda outputs, y: smoothed(outputs, y).detach(), "does not depend on the model's parameters"),
        (
            lambda outputs, y: smoothed(outputs, y) / 0,
            "the loss is not finite for the first 4 training examples",
        ),
        (
            lambda outputs, y: y.missing,
            r"the loss can't take what the model gives: .*test_objective.py, line",
        ),
    ],
)
def test_what_a_loss_gives_is_checked(loss: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task_of(linear, loss=loss)
