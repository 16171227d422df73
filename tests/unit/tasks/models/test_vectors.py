"""Vectors without a model: as large, and cut into the same tensors, as the real networks."""

from __future__ import annotations

import pytest
import torch

from qafel_mpi.codecs.base import Layout
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.models.cnn import CNN
from qafel_mpi.tasks.models.resnet import ResNet18
from qafel_mpi.tasks.models.transformer import Transformer
from qafel_mpi.tasks.models.vectors import VECTORS


@pytest.mark.parametrize(
    ("name", "elements"),
    [("vectors:cnn", 29_282), ("vectors:resnet18", 11_689_512), ("vectors:gpt2", 124_439_808)],
)
def test_parameter_vectors_have_the_real_networks_size(name: str, elements: int) -> None:
    layout: Layout = VECTORS[name]()
    assert layout.elements == elements
    assert len(set(layout.names)) == len(layout.names) == len(layout.shapes)
    assert TaskConfig(model=name).model == name


def test_the_vector_of_resnet18_has_the_models_own_tensors_in_their_order() -> None:
    layout = VECTORS["vectors:resnet18"]()
    with torch.device("meta"):
        module = ResNet18(3, 1000, small=False, norm="batch")
    assert [(name, tuple(p.shape)) for name, p in module.named_parameters()] == list(
        zip(layout.names, layout.shapes, strict=True)
    )


def test_the_vector_of_the_papers_network_has_the_models_own_tensors_in_their_order() -> None:
    layout = VECTORS["vectors:cnn"]()
    with torch.device("meta"):
        module = CNN(3, 2, 0.0)
    assert [(name, tuple(p.shape)) for name, p in module.named_parameters()] == list(
        zip(layout.names, layout.shapes, strict=True)
    )


def test_the_vector_of_gpt2_has_the_models_own_tensors() -> None:
    """GPT-2's files hold its linear layers transposed, and so does the vector."""
    layout = VECTORS["vectors:gpt2"]()
    with torch.device("meta"):
        module = Transformer(50257, 1024, 50257, depth=12, width=768, heads=12)
    sizes = {name.removesuffix(".weight"): p.numel() for name, p in module.named_parameters()}
    assert sizes == {
        name.removesuffix(".weight"): size for name, size in zip(layout.names, layout.sizes, strict=True)
    }


@pytest.mark.parametrize("name", ["vectors:resnet", "vectors:transformer", "resnet"])
def test_a_name_that_is_none_is_answered_with_the_ones_there_are(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"{name}' is none of .*vectors:cnn, vectors:resnet18, vectors:gpt2.*did you mean"
    ):
        TaskConfig(model=name)
