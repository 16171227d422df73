"""What a model function gives: made ready, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qafel_mpi.tasks import DataError
from tests.unit.tasks.own_models import Around, delta_of, linear, task_of


class WithA(Around):
    """What a function makes, as its attribute `thing`."""

    def __init__(self, thing: Any) -> None:
        super().__init__()
        if isinstance(thing, nn.Parameter | nn.Module):
            self.thing = thing
        else:
            self.register_buffer("thing", thing)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: None, "gave None; it must give a torch.nn.Module; does the function end without a return"),
        (lambda: (linear(), linear()), "gave a tuple of 2; it must give a torch.nn.Module"),
        (lambda: nn.Linear, "gave a type; it must give a torch.nn.Module"),
        (lambda: nn.ReLU(), "no parameters to train"),
        (lambda: WithA(nn.Parameter(torch.ones(2, dtype=torch.complex64))), "'thing' is torch.complex64"),
        (lambda: WithA(torch.ones(2, dtype=torch.complex128)), "'thing' is torch.complex128"),
        (
            lambda: WithA(torch.tensor([1.0, 1e300], dtype=torch.float64)),
            r"'thing' holds 1e\+300, which torch.float32",
        ),
        (
            lambda: WithA(nn.Linear(2, 2, device="meta")),
            "'thing.weight' lies on the meta device, without values",
        ),
        (lambda: WithA(nn.LazyLinear(2)), "'thing.weight' has no shape: a batch of examples does not pass"),
    ],
)
def test_what_can_not_be_trained_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task_of(make)


def test_float64_keeps_what_float32_can_not() -> None:
    task_of(lambda: WithA(torch.tensor(1e300, dtype=torch.float64)), dtype=torch.float64)
    task_of(lambda: WithA(torch.tensor(torch.inf, dtype=torch.float64)))


def test_lazy_layers_take_their_shape_from_one_batch_and_their_values_from_the_seed() -> None:
    def lazy() -> nn.Module:
        return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3))

    task = task_of(lazy)
    assert task.layout.shapes[0] == (8, 6)
    assert torch.equal(task.initial(4), task_of(lazy, seed=9).initial(4))
    assert not torch.equal(task.initial(4), task.initial(5))
    assert delta_of(task).any()


# --- client.trainable ---------------------------------------------------------------------------------


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def test_of_a_regular_expression_only_what_it_is_found_in_is_trained_and_sent() -> None:
    task = task_of(network, trainable=r"^3\.")
    assert task.layout.names == ("3.weight", "3.bias")
    before = {k: v.clone() for k, v in task.flat.module.state_dict().items()}
    x = task.initial(0)
    x += delta_of(task, 0, x)
    task.evaluate(x)
    after = task.flat.module.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"3.weight", "3.bias"}, "the norm's statistics stand still too"
    assert task_of(network, trainable=r"^[13]\.").layout.names[-2:] == ("1.running_mean", "1.running_var")


def test_an_adapter_is_trained_alone() -> None:
    class Adapted(nn.Module):
        """LoRA's way (Hu et al., arXiv 2106.09685): a frozen layer and a trained one of low rank beside it."""

        def __init__(self) -> None:
            super().__init__()
            self.base = linear()
            self.lora_a, self.lora_b = nn.Parameter(torch.randn(6, 1)), nn.Parameter(torch.zeros(1, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + x @ self.lora_a @ self.lora_b

    task = task_of(Adapted, trainable="lora_", local_steps=20, learning_rate=0.1)
    assert task.layout.elements == 9
    x = task.initial(0)
    assert task.evaluate(x + delta_of(task, 0, x)).loss < task.evaluate(x).loss


def test_an_expression_that_is_found_nowhere_is_refused_with_the_names() -> None:
    with pytest.raises(
        DataError, match=r"client.trainable = 'head': found in no parameter's name; there are 0.weight"
    ):
        task_of(network, trainable="head")


def test_a_layer_that_fails_is_named_with_the_line() -> None:
    class Asserts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[1] == 5, "five features"
            return x

    with pytest.raises(
        DataError,
        match=r"layer '0' \(Asserts\) of the model can't take a batch of \(2, 6\) .* in evaluation: AssertionError: "
        r"five features \(.*test_make.py, line \d+\)",
    ):
        task_of(lambda: nn.Sequential(Asserts(), linear()))
