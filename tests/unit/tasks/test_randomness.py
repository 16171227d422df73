"""Random numbers that a training draws: from its seed, and without a trace outside."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from qafel_mpi.tasks.randomness import own_random_numbers, torchs_random_numbers

CPU = torch.device("cpu")


def test_numbers_inside_are_those_of_the_seed_and_outside_goes_on_as_if_nothing_had_been_drawn() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    inside = []
    for _ in range(2):
        with torchs_random_numbers(2**64 - 1, CPU):
            inside.append(torch.rand(3))
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(*inside)
    torch.manual_seed(2**63 - 1)
    assert torch.equal(torch.rand(3), inside[0])


def test_pythons_and_numpys_generators_are_seeded_too_where_the_model_is_the_users() -> None:
    drawn = []
    for _ in range(2):
        with own_random_numbers(3, CPU):
            drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))  # noqa: NPY002
    assert drawn[0] == drawn[1]


def test_a_training_on_the_cpu_notes_nothing_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(seed: int) -> None:
        raise AssertionError("each seed is kept, with its stack, until there is a GPU")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", called)
    with torchs_random_numbers(3, CPU):
        torch.rand(1)
