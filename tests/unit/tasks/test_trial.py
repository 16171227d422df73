"""A model of the user's own is tried once: in both modes, with a training step, and with one example."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qafel_mpi.tasks import DataError
from qafel_mpi.tasks.batches import batches
from tests.unit.tasks.own_models import Around, delta_of, linear, task_of


class Gives(Around):
    """Other outputs in training than in evaluation."""

    what = ""

    def forward(self, x: Tensor) -> Any:
        out = self.linear(x)
        if not self.training:
            return out
        match self.what:
            case "pair":
                return out, x
            case "dict":
                return {"logits": out}
            case "none":
                return None
            case "fewer":
                return out[:, :2]
            case "classes":
                return out.argmax(1)
            case "detached":
                return out.detach()
            case "nan":
                return out / (out - out)
            case "raises":
                raise AssertionError("not here")
            case _:
                return out.unsqueeze(0).sum(0)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "pair",
            r"gives a tuple of 2 in training for 4 examples of 3 classes; it must give one tensor .* \(4, 3\)",
        ),
        ("dict", "gives a dict of 1 in training"),
        ("none", "gives None in training .*; does its forward end without a return"),
        ("fewer", r"gives \(4, 2\) in training for 4 examples of 3 classes; .* of shape \(4, 3\)"),
        ("classes", r"gives \(4,\) in training"),
        ("detached", "outputs in training do not depend on its parameters"),
        ("nan", "what the model gives is not finite for the first 4 training examples"),
        ("raises", r"the model can't take a batch of \(4, 6\) .* in training: AssertionError: not here"),
    ],
)
def test_what_a_model_gives_in_training_is_checked_too(what: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task_of(type("Gives", (Gives,), {"what": what}))


def test_a_model_that_gives_what_is_wanted_passes() -> None:
    assert delta_of(task_of(Gives)).any()


# --- batches of one -----------------------------------------------------------------------------------


class BatchStd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (x.std(0) + 1)


def without_statistics() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3))


def with_statistics() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


def by_std() -> nn.Module:
    return nn.Sequential(BatchStd(), linear())


@pytest.mark.parametrize("make", [without_statistics, with_statistics, by_std])
def test_the_last_two_batches_are_joined_where_a_layer_needs_two_examples(make: Any) -> None:
    task = task_of(make, sizes=(17, 16), local_steps=None, local_epochs=2, batch_size=8)
    assert [len(batch) for batch in task._batches(0, 5)] == [8, 9, 8, 9]
    assert [len(batch) for batch in task._batches(1, 5)] == [8, 8, 8, 8]
    assert torch.isfinite(delta_of(task)).all()


def test_batches_of_one_stay_where_no_layer_minds() -> None:
    task = task_of(linear, sizes=(17, 16), local_steps=None, local_epochs=1, batch_size=8)
    assert [len(batch) for batch in task._batches(0, 5)] == [8, 8, 1]


@pytest.mark.parametrize(
    ("make", "layer"),
    [(without_statistics, r"layer '1' \(BatchNorm1d\)"), (by_std, r"layer '0' \(BatchStd\)")],
)
def test_a_client_of_one_example_is_refused_by_the_layers_name(make: Any, layer: str) -> None:
    with pytest.raises(DataError, match=f"client 1 has one training example: .*{layer}"):
        task_of(make, sizes=(20, 1, 10))
    with pytest.raises(DataError, match=f"client.batch_size = 1: .*{layer}"):
        task_of(make, sizes=(20, 10), batch_size=1)


def test_a_client_of_one_example_trains_by_running_statistics() -> None:
    task = task_of(with_statistics, sizes=(20, 1))
    assert torch.isfinite(delta_of(task, client=1)).all()


def test_evaluation_never_meets_one_example_alone() -> None:
    seen: list[int] = []

    class Looks(Around):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x)) if not self.training else None
            return self.linear(x)

    task = task_of(Looks, sizes=(101, 100))
    x = task.initial(0)
    seen.clear()
    assert task.evaluate(x, 1).examples == 2
    task.gradient_norm_squared(x)
    assert seen == [2, 100, 101]


def test_joined_batches_have_every_example_once() -> None:
    for n in range(3, 30):
        plan = list(batches(torch.arange(n), 4, 20, 7, least=2))
        assert all(len(batch) >= 2 for batch in plan)
        epoch: list[int] = []
        while len(epoch) < n:
            epoch += plan.pop(0).tolist()
        assert sorted(epoch) == list(range(n))


# --- random numbers -----------------------------------------------------------------------------------


class Draws(Around):
    """A mask by a generator that is not torch's, when it is made and in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([random.random() < 0.5 for _ in range(6)]))
        self.noise = np.random.rand(6)  # noqa: NPY002 - as models do

    def forward(self, x: Tensor) -> Tensor:
        module: Any = self
        if self.training:
            x = x * random.random() + float(np.random.rand())  # noqa: NPY002
        return self.linear(x * module.mask + torch.from_numpy(self.noise).to(x))


def test_pythons_and_numpys_random_numbers_are_a_function_of_the_seed() -> None:
    random.seed(1)
    one = task_of(Draws)
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    other = task_of(Draws)
    assert one.state_digest == other.state_digest
    assert torch.equal(delta_of(one), delta_of(other))
    assert not torch.equal(delta_of(one), delta_of(one, seed=2))
    assert task_of(Draws, seed=1).state_digest != one.state_digest


def test_the_callers_own_random_numbers_are_left_as_they_were() -> None:
    expected = random.Random(5).random(), np.random.RandomState(5).rand()
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    delta_of(task_of(Draws))
    assert (random.random(), np.random.rand()) == expected  # noqa: NPY002


COUNTED = [0]


class Global(Around):
    def forward(self, x: Tensor) -> Tensor:
        COUNTED[0] += 1
        return self.linear(x) * (1 + 0.01 * COUNTED[0])


class Unseeded(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * np.random.default_rng().random() if self.training else x)


@pytest.mark.parametrize("make", [Global, Unseeded])
def test_what_is_no_function_of_start_and_seed_is_refused(make: Any) -> None:
    torch.set_num_threads(1)
    with pytest.raises(DataError, match="trains differently from the same start, examples and seed"):
        task_of(make)
