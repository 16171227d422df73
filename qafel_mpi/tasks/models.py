"""Models, as torch modules or, for communication runs, as the shapes of their parameters alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from qafel_mpi.codecs.base import Layout
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.errors import DataError


class CNN(nn.Module):
    """The CelebA and CIFAR-10 network of the paper's experiments: 29,282 parameters for 2 classes, 31,594 for 10.

    Four times conv 3×3 (to 32 channels, padding 2, bias), GroupNorm (32 groups; one instance for all four blocks),
    ReLU, max-pool 2; then dropout and a linear layer on 288 = 32·3·3. Inputs: (n, channels, 32, 32).
    """

    def __init__(self, channels: int, classes: int, dropout: float):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels if block == 0 else 32, 32, 3, padding=2) for block in range(4)
        )
        self.norm = nn.GroupNorm(32, 32)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(288, classes)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = torch.max_pool2d(torch.relu(self.norm(convolution(x))), 2)
        return self.linear(self.dropout(x.flatten(1)))


def cnn(config: TaskConfig, shape: tuple[int, ...], classes: int) -> nn.Module:
    if len(shape) != 3 or shape[1:] != (32, 32):
        raise DataError(f"model cnn takes images of (channels, 32, 32), this data set's are {shape}")
    return CNN(shape[0], classes, config.dropout)


def mlp(config: TaskConfig, shape: tuple[int, ...], classes: int) -> nn.Module:
    """One hidden layer of `hidden` ReLUs on the flattened example."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), config.hidden),
        nn.ReLU(),
        nn.Linear(config.hidden, classes),
    )


MODELS: dict[str, Callable[[TaskConfig, tuple[int, ...], int], nn.Module]] = {"cnn": cnn, "mlp": mlp}


# --- parameter vectors for communication runs -------------------------------------------------------


def resnet18() -> Layout:
    """The tensors of ResNet-18 for ImageNet, 11,689,512 parameters (He et al. 2016)."""
    tensors: list[tuple[str, tuple[int, ...]]] = [("conv1.weight", (64, 3, 7, 7)), *_norm("bn1", 64)]
    channels = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            tensors += [(f"{name}.conv1.weight", (width, channels, 3, 3)), *_norm(f"{name}.bn1", width)]
            tensors += [(f"{name}.conv2.weight", (width, width, 3, 3)), *_norm(f"{name}.bn2", width)]
            if channels != width:
                tensors += [(f"{name}.downsample.0.weight", (width, channels, 1, 1))]
                tensors += _norm(f"{name}.downsample.1", width)
            channels = width
    tensors += [("fc.weight", (1000, 512)), ("fc.bias", (1000,))]
    return _layout(tensors)


def transformer() -> Layout:
    """The tensors of the smallest GPT-2, 124,439,808 parameters (Radford et al. 2019)."""
    d = 768
    tensors: list[tuple[str, tuple[int, ...]]] = [("wte", (50257, d)), ("wpe", (1024, d))]
    for block in range(12):
        name = f"h.{block}"
        tensors += _norm(f"{name}.ln_1", d)
        tensors += [(f"{name}.attn.c_attn.weight", (d, 3 * d)), (f"{name}.attn.c_attn.bias", (3 * d,))]
        tensors += [(f"{name}.attn.c_proj.weight", (d, d)), (f"{name}.attn.c_proj.bias", (d,))]
        tensors += _norm(f"{name}.ln_2", d)
        tensors += [(f"{name}.mlp.c_fc.weight", (d, 4 * d)), (f"{name}.mlp.c_fc.bias", (4 * d,))]
        tensors += [(f"{name}.mlp.c_proj.weight", (4 * d, d)), (f"{name}.mlp.c_proj.bias", (d,))]
    return _layout([*tensors, *_norm("ln_f", d)])


def _norm(name: str, width: int) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{name}.weight", (width,)), (f"{name}.bias", (width,))]


def _layout(tensors: list[tuple[str, tuple[int, ...]]]) -> Layout:
    return Layout(tuple(name for name, _ in tensors), tuple(shape for _, shape in tensors))


VECTORS: dict[str, Callable[[], Layout]] = {"resnet18": resnet18, "transformer": transformer}
