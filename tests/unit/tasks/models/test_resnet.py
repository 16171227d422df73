"""ResNet-18: the known number of parameters, both stems, both norms, and training that lowers the loss."""

from __future__ import annotations

import pytest
import torch

from qafel_mpi.tasks import DataError, build
from qafel_mpi.tasks.config import ClientConfig, TaskConfig
from qafel_mpi.tasks.models.resnet import ResNet18, resnet18
from qafel_mpi.tasks.targets import Signature


def made(shape: tuple[int, ...], norm: str = "group", classes: int = 10) -> torch.nn.Module:
    return resnet18(TaskConfig.model_validate({"norm": norm}), Signature(shape, classes))


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_with_1000_classes_it_has_the_known_number_of_parameters(norm: str) -> None:
    with torch.device("meta"):
        module = ResNet18(3, 1000, small=False, norm=norm)
    assert sum(p.numel() for p in module.parameters()) == 11_689_512


def test_groupnorm_is_the_default_and_leaves_no_buffers() -> None:
    assert not list(made((3, 32, 32)).buffers())
    assert len(list(made((3, 32, 32), "batch").buffers())) == 3 * 20


@pytest.mark.parametrize(("side", "inside"), [(32, 32), (28, 28), (224, 56)])
def test_small_images_keep_their_size_in_the_stem_and_large_ones_are_quartered(
    side: int, inside: int
) -> None:
    module = made((3, side, side))
    seen: list[int] = []
    assert isinstance(module, ResNet18)
    module.layer1.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[-1]))
    with torch.no_grad():
        assert module(torch.zeros(1, 3, side, side)).shape == (1, 10)
    assert seen == [inside]


@pytest.mark.parametrize("shape", [(64,), (32, 32), (3, 8, 8)])
def test_examples_that_are_no_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"from 16×16 pixels on, .*examples are \("):
        made(shape)


def test_on_synthetic_images_their_size_must_be_said_and_the_vector_is_named() -> None:
    """The name was that of a vector without a model once."""
    task = TaskConfig(dataset="synthetic", model="resnet18")
    with pytest.raises(DataError, match=r"task.shape = \[3, 32, 32\].*'vectors:resnet18'"):
        build(task, ClientConfig(), seed=0)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_few_steps_lower_the_loss(norm: str) -> None:
    settings = {"dataset": "synthetic", "shape": [3, 16, 16], "examples": 12, "noise": 0.3, "classes": 3}
    config = TaskConfig.model_validate({"model": "resnet18", "clients": 1, "norm": norm, **settings})
    client = ClientConfig(learning_rate=0.003, local_steps=3, batch_size=12)
    task = build(config, client, seed=0)
    start = task.initial(0)
    delta = torch.empty_like(start)
    task.train(0, start, delta, 0)
    assert task.evaluate(start + delta).loss < 0.85 * task.evaluate(start).loss
