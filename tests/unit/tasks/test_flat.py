"""The flat vector holds what training moves; everything else stays local, constant, and is compared between ranks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from qafel_mpi.codecs import build as build_codec
from qafel_mpi.codecs.config import CodecConfig
from qafel_mpi.tasks import DataError
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.flat import FlatModule
from qafel_mpi.tasks.models.mlp import mlp
from qafel_mpi.tasks.targets import Signature
from tests.unit.tasks.own_models import Around, delta_of, linear, task_of

CPU = torch.device("cpu")


def flat(module: nn.Module) -> FlatModule:
    return FlatModule(module, torch.float32, CPU)


def test_parameters_and_gradients_are_views_into_two_vectors() -> None:
    one = flat(mlp(TaskConfig(hidden=8), Signature((5,), 3)))
    before = one.vector.clone()
    loss = cross_entropy(one.module(torch.randn(4, 5)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert one.gradient.abs().sum() > 0
    for p, a in zip(one.module.parameters(), one.layout.offsets, strict=False):
        assert p.data_ptr() == one.vector[a:].data_ptr()
        assert p.grad is not None
        assert p.grad.data_ptr() == one.gradient[a:].data_ptr()
    one.load(torch.zeros_like(before))
    assert all(not p.any() for p in one.module.parameters())
    one.load(before)
    assert torch.equal(torch.cat([p.flatten() for p in one.module.parameters()]), before)


class Unusual(nn.Module):
    """Tied weights, a frozen parameter, a scalar, BatchNorm's buffers, a counter of calls."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(4, 4), requires_grad=False)
        self.inner = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.inner.weight
        self.norm = nn.BatchNorm1d(4)
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.gain * self.norm(self.tied(self.inner(x @ self.embed)))


def test_tied_frozen_and_scalar_parameters_and_buffers_have_their_place() -> None:
    one = flat(Unusual())
    assert one.layout.names == (
        *("gain", "inner.weight", "inner.bias", "tied.bias", "norm.weight", "norm.bias"),
        *("norm.running_mean", "norm.running_var"),
    )
    assert one.trained == 1 + 16 + 4 + 4 + 4 + 4
    assert one.layout.shapes[0] == ()
    one.module(torch.randn(8, 4)).sum().backward()
    assert one.vector[-8:-4].any()  # the running mean moved, in the vector


def test_loading_a_vector_makes_the_module_a_function_of_it_alone() -> None:
    one = flat(Unusual())
    start = one.vector.clone()
    one.module(torch.randn(8, 4))
    one.load(start)
    assert int(one.module.calls) == 0  # type: ignore[arg-type]
    assert int(one.module.norm.num_batches_tracked) == 0  # type: ignore[union-attr, arg-type]
    assert torch.equal(one.vector, start)


def test_a_variance_below_zero_is_read_as_zero() -> None:
    one = flat(Unusual())
    x = one.vector.clone()
    x[-4:] = -1e-3  # what a quantizer may make of a small variance
    one.load(x)
    assert not one.vector[-4:].any()
    assert torch.isfinite(one.module.eval()(torch.randn(3, 4))).all()


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(DataError, match="no parameters to train"):
        flat(nn.ReLU())


# --- models of the user's own ---------------------------------------------------------------------------


class WithConstants(Around):
    """Buffers that never change, one of them an infinite mask, and a frozen layer."""

    two: Tensor
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(6, 6)
        self.frozen.requires_grad_(False)
        self.register_buffer("two", torch.full((4,), 2.0))
        self.register_buffer(
            "mask", torch.tensor([0.0, 0.0, 0.0]).masked_fill(torch.tensor([False, False, True]), -torch.inf)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.frozen(x)) * self.two[0] + self.mask.nan_to_num(neginf=-9.0)


def test_constants_and_frozen_layers_are_not_sent_and_do_not_move_whatever_the_codec() -> None:
    task = task_of(WithConstants)
    assert task.layout.names == ("linear.weight", "linear.bias")
    codec = build_codec(CodecConfig(codec="sign"), task.layout, torch.float32)
    assert codec.payload_bytes() < 4 * task.layout.elements
    module: Any = task.flat.module
    frozen = copy.deepcopy(module.frozen.state_dict())
    x = task.initial(0)
    payload = torch.zeros(codec.payload_bytes(), dtype=torch.uint8).numpy()
    for round_ in range(5):
        codec.encode(delta_of(task, round_ % 3, x, round_), payload, round_)
        codec.accumulate(payload, x, 1.0, round_)
    task.evaluate(x)
    assert (module.two == 2).all()
    assert module.mask.tolist() == [0, 0, -torch.inf]
    assert all(torch.equal(value, frozen[name]) for name, value in module.frozen.state_dict().items())


def test_ranks_compare_all_that_the_vector_does_not_hold() -> None:
    """Another mask, frozen weight, integer or attribute is another digest; another start of the vector is not."""

    def other(change: str, value: Any) -> type[WithConstants]:
        class Other(WithConstants):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("count", torch.tensor([3, 4]))
                self.register_buffer("chosen", torch.tensor([True, False]))
                self.plain, self.inside = torch.ones(2), {"a": [1, 2.5]}
                if change:
                    exec(f"self.{change} = value", {"self": self, "value": value})

        return Other

    same = task_of(other("", None)).state_digest
    assert task_of(other("", None)).state_digest == same
    changes = {
        "mask": torch.tensor([0.0, -torch.inf, 0.0]),
        "two": torch.full((4,), 2.5),
        "frozen.weight.data": torch.zeros(6, 6),
        "count": torch.tensor([3, 5]),
        "chosen": torch.tensor([False, True]),
        "plain": torch.zeros(2),
        "inside": {"a": [1, 2.75]},
    }
    digests = {task_of(other(change, value)).state_digest for change, value in changes.items()}
    assert len(digests - {same}) == len(changes)
    assert task_of(other("linear.weight.data", torch.zeros(3, 6))).state_digest == same


class Counts(Around):
    """State that is assigned anew, and that counts: an integer buffer, attributes, a float statistic."""

    seen: Tensor
    centre: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("centre", torch.zeros(6))
        self.passes, self.history = 0, [torch.zeros(2)]

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen = self.seen + 1
            self.passes += 1
            self.history.append(x.mean() * torch.ones(2))
            self.centre = 0.9 * self.centre + 0.1 * x.detach().mean(0)
        return self.linear(x - self.centre) * (
            1 + 0.1 * self.seen + 0.1 * self.passes + 0.01 * len(self.history)
        )


def test_state_that_forward_assigns_anew_goes_from_no_client_to_the_next() -> None:
    task = task_of(Counts)
    start = task.initial(0)
    first = delta_of(task, 0, start)
    delta_of(task, 1, start)
    task.evaluate(start)
    assert torch.equal(delta_of(task, 0, start), first)
    assert torch.equal(delta_of(task_of(Counts), 0, start), first)


def test_a_statistic_that_forward_assigns_anew_is_sent_and_learnt() -> None:
    task = task_of(Counts)
    assert task.layout.names == ("linear.weight", "linear.bias", "centre")
    delta = delta_of(task)
    module: Any = task.flat.module
    assert torch.equal(delta[-6:], module.centre)
    assert delta[-6:].all()


class Late(Around):
    """Moves what it should not, but only from its sixth pass on: a trial does not see it."""

    what = ""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.ones(1))
        self.register_buffer("calls", torch.tensor(0))
        self.factor, self.frozen = 1.0, nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        module: Any = self
        module.calls += 1
        if self.training and int(module.calls) > 5:
            match self.what:
                case "gain":
                    module.gain = module.gain * 1.5
                case "factor":
                    self.factor *= 1.5
                case "frozen":
                    self.frozen.data = self.frozen * 1.5
        return self.linear(x) * self.factor * module.gain * self.frozen


@pytest.mark.parametrize("what", ["gain", "factor", "frozen"])
def test_what_moves_later_than_in_the_trial_is_found_after_the_first_training_and_named(what: str) -> None:
    task = task_of(type("Later", (Late,), {"what": what}), local_steps=8)
    with pytest.raises(DataError, match=f"changes '{what}' in training"):
        delta_of(task)


class Exchanges(Around):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.linear.weight.data = self.linear.weight.data * 1.01
        return self.linear(x)


def test_parameters_exchanged_behind_the_vector_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"exchanges its parameter 'linear.weight'"):
        task_of(Exchanges)


class KeepsItsNorm(nn.Module):
    """Chooses its own mode: the norm's statistics stand still."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(6), linear()

    def train(self, mode: bool = True) -> KeepsItsNorm:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


def test_a_mode_that_the_model_chose_is_kept() -> None:
    task = task_of(KeepsItsNorm)
    assert task.layout.names == ("norm.weight", "norm.bias", "linear.weight", "linear.bias")
    delta_of(task)
    module: Any = task.flat.module
    assert not module.norm.running_mean.any()
    assert not module.norm.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_views_of_one_memory_are_refused_where_one_of_them_is_trained(dtype: torch.dtype) -> None:
    class Shares(Around):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("row", self.linear.weight.detach()[0])

    with pytest.raises(DataError, match=r"'linear.weight' and 'row' are views of one memory"):
        task_of(Shares, dtype=dtype)


def test_columns_of_one_memory_have_no_element_in_common() -> None:
    class Columns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            both = torch.randn(6, 6)
            self.left, self.right = nn.Parameter(both[:, :3]), nn.Parameter(both[:, 3:])

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.left + x @ self.right

    assert task_of(Columns).layout.shapes == ((6, 3), (6, 3))


def test_an_expanded_buffer_is_copied() -> None:
    class Expanded(Around):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("wide", torch.ones(1).expand(6))
            self.register_buffer("count", torch.zeros(1, dtype=torch.int64).expand(4))

        def forward(self, x: Tensor) -> Tensor:
            module: Any = self
            return self.linear(x * module.wide) + module.count[:3]

    task = task_of(Expanded)
    assert torch.equal(delta_of(task), delta_of(task))


def test_a_buffer_in_two_places_stays_one() -> None:
    class Twice(Around):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Module()
            for owner in (self, self.inner):
                owner.register_buffer("centre", self._buffers.get("centre", torch.zeros(6)))

        def forward(self, x: Tensor) -> Tensor:
            module: Any = self
            if self.training:
                module.centre.lerp_(x.mean(0), 0.1)
            return self.linear(x - module.inner.centre)

    for dtype in (torch.float32, torch.float64):
        task = task_of(Twice, dtype=dtype)
        assert task.layout.names == ("linear.weight", "linear.bias", "centre")
        delta_of(task)
        module: Any = task.flat.module
        assert module.centre is module.inner.centre
