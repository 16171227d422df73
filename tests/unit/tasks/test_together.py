"""Clients are trained as one batch only where it was seen that each learns what it learns alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from tests.unit.tasks.own_models import Around, linear, task_of

SIZES = (9, 3, 14, 5, 8, 8, 2, 11, 7, 6)


class Centred(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x - x.mean(0))


class Drops(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(dropout(x, 0.5, self.training))


class Asks(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * (2.0 if x.abs().max().item() > 1 else 1.0)


class Embeds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3, sparse=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding(x.abs().long().clamp(max=4)).sum(1)


class Counts(Around):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Centred, "in one batch a client learns something else"),
        (Drops, "can't be batched"),
        (Asks, "can't be batched"),
        (Embeds, ""),
        (Counts, "counts in training"),
        (lambda: nn.Sequential(linear(), nn.BatchNorm1d(3)), "statistics that training moves"),
        (lambda: nn.Sequential(nn.Dropout(0.1), linear()), "dropout would draw other numbers"),
    ],
)
def test_a_model_that_can_not_be_batched_is_trained_one_client_at_a_time(make: Any, why: str) -> None:
    task = task_of(make, sizes=SIZES, together=16, local_steps=None, local_epochs=1, batch_size=4)
    start, seeds = task.initial(0), range(10)
    deltas = torch.empty(10, task.layout.elements)
    task.train_together(range(10), start, deltas, seeds)
    for client in range(10):
        alone = torch.empty_like(start)
        task.train(client, start, alone, seeds[client])
        torch.testing.assert_close(deltas[client], alone, rtol=1e-5, atol=1e-7)
    if why:
        assert task.together == 1
        assert why in task.notes[0]
        assert task.notes[0].startswith("client.together = 16: clients are trained one at a time, for ")


def test_a_model_of_ones_own_that_can_be_batched_is() -> None:
    task = task_of(linear, sizes=SIZES, together=16)
    assert (task.together, task.notes) == (16, ())
