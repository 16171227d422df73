"""Models: the paper's numbers of parameters, real shapes, and one flat vector under them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from qafel_mpi.codecs.base import Layout
from qafel_mpi.tasks import DataError
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.flat import FlatModule
from qafel_mpi.tasks.models import CNN, VECTORS, cnn, mlp

CPU = torch.device("cpu")


def flat(module: nn.Module) -> FlatModule:
    return FlatModule(module, torch.float32, CPU)


@pytest.mark.parametrize(("classes", "many_d", "one_d"), [(2, 29_088, 194), (10, 31_392, 202)])
def test_the_papers_cnn_has_the_papers_parameters(classes: int, many_d: int, one_d: int) -> None:
    layout = flat(cnn(TaskConfig(), (3, 32, 32), classes)).layout
    tensors = list(zip(layout.sizes, layout.shapes, strict=True))
    assert layout.elements == many_d + one_d
    assert sum(size for size, shape in tensors if len(shape) >= 2) == many_d
    assert sum(size for size, shape in tensors if len(shape) == 1) == one_d
    assert sum(len(shape) >= 2 for _, shape in tensors) == 5


def test_the_linear_layer_sees_32_times_3_times_3() -> None:
    seen: list[tuple[int, ...]] = []
    module = CNN(3, 10, 0.1)
    module.linear.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    assert module(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert seen == [(2, 288)]


def test_the_cnn_takes_one_channel_too_and_no_other_size() -> None:
    assert flat(cnn(TaskConfig(), (1, 32, 32), 10)).layout.elements == 31_594 - 2 * 32 * 9
    with pytest.raises(DataError, match=r"channels, 32, 32.*\(28, 28\)"):
        cnn(TaskConfig(), (28, 28), 10)


def test_the_mlp_takes_any_shape() -> None:
    module = mlp(TaskConfig(hidden=5), (2, 3), 4)
    assert module(torch.zeros(7, 2, 3)).shape == (7, 4)


@pytest.mark.parametrize(("name", "elements"), [("resnet18", 11_689_512), ("transformer", 124_439_808)])
def test_parameter_vectors_have_the_real_networks_size(name: str, elements: int) -> None:
    layout: Layout = VECTORS[name]()
    assert layout.elements == elements
    assert len(set(layout.names)) == len(layout.names) == len(layout.shapes)


def test_the_first_tensors_of_resnet18_are_torchvisions() -> None:
    layout = VECTORS["resnet18"]()
    assert layout.names[:3] == ("conv1.weight", "bn1.weight", "bn1.bias")
    assert layout.shapes[0] == (64, 3, 7, 7)
    assert layout.shapes[-2:] == ((1000, 512), (1000,))
    assert len(layout.names) == 62


def test_parameters_and_gradients_are_views_into_two_vectors() -> None:
    one = flat(mlp(TaskConfig(hidden=8), (5,), 3))
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
