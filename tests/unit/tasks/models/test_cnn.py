"""The paper's network: its numbers of parameters, and the shapes inside."""

from __future__ import annotations

import pytest
import torch

from qafel_mpi.tasks import DataError
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.flat import FlatModule
from qafel_mpi.tasks.models.cnn import CNN, cnn
from qafel_mpi.tasks.targets import Signature


def made(shape: tuple[int, ...], classes: int) -> FlatModule:
    return FlatModule(cnn(TaskConfig(), Signature(shape, classes)), torch.float32, torch.device("cpu"))


@pytest.mark.parametrize(("classes", "many_d", "one_d"), [(2, 29_088, 194), (10, 31_392, 202)])
def test_the_papers_cnn_has_the_papers_parameters(classes: int, many_d: int, one_d: int) -> None:
    layout = made((3, 32, 32), classes).layout
    tensors = list(zip(layout.sizes, layout.shapes, strict=True))
    assert layout.elements == many_d + one_d
    assert sum(size for size, shape in tensors if len(shape) >= 2) == many_d
    assert sum(size for size, shape in tensors if len(shape) == 1) == one_d
    assert sum(len(shape) >= 2 for _, shape in tensors) == 5


@pytest.mark.parametrize("side", [28, 32])
def test_the_linear_layer_sees_32_times_3_times_3(side: int) -> None:
    seen: list[tuple[int, ...]] = []
    module = CNN(3, 10, 0.1)
    module.linear.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    assert module(torch.zeros(2, 3, side, side)).shape == (2, 10)
    assert seen == [(2, 288)]


def test_the_cnn_takes_one_channel_too_and_no_other_size() -> None:
    assert made((1, 28, 28), 10).layout.elements == 31_594 - 2 * 32 * 9
    for shape in ((28, 28), (3, 24, 24), (3, 32, 28)):
        with pytest.raises(DataError, match=r"channels, 32, 32.*examples are \("):
            made(shape, 10)
