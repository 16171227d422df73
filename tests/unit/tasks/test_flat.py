"""One flat vector under a module: views, what has a place in it, and what loading makes of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from qafel_mpi.tasks import DataError
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.flat import FlatModule
from qafel_mpi.tasks.models.mlp import mlp
from qafel_mpi.tasks.targets import Signature

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
        *("embed", "norm.running_mean", "norm.running_var"),
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
