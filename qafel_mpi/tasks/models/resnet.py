"""ResNet-18 (He et al. 2016), for small images and for large ones, with GroupNorm or BatchNorm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.targets import Signature

GROUPS = 32  # Wu and He 2018
LEAST_SIDE, LARGE_SIDE = 16, 64  # pixels: from LARGE_SIDE on, images take ImageNet's stem
WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """Two convolutions 3×3 and a shortcut, projected by a convolution 1×1 where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int, norm: str):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = _norm(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = _norm(norm, width)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), _norm(norm, width)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet18(nn.Module):
    """Tensors named, shaped and ordered as torchvision's, so 11,689,512 parameters for 1000 classes of RGB images.

    small: a convolution 3×3 for a stem and no max-pool, as He et al. have it for 32×32; else 7×7 with stride 2
    and a max-pool. norm: "group", whose statistics are an example's own and so nothing that clients would
    average, or "batch".
    """

    def __init__(self, channels: int, classes: int, *, small: bool, norm: str):
        super().__init__()
        kernel, stride = (3, 1) if small else (7, 2)
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = _norm(norm, WIDTHS[0])
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], 1, norm)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], 2, norm)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], 2, norm)
        self.layer4 = _stage(WIDTHS[2], WIDTHS[3], 2, norm)
        self.fc = nn.Linear(WIDTHS[3], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def _stage(channels: int, width: int, stride: int, norm: str) -> nn.Sequential:
    return nn.Sequential(Block(channels, width, stride, norm), Block(width, width, 1, norm))


def _norm(kind: str, width: int) -> nn.Module:
    return nn.GroupNorm(GROUPS, width) if kind == "group" else nn.BatchNorm2d(width)


def resnet18(config: TaskConfig, data: Signature) -> nn.Module:
    """Raises DataError where the examples are no images."""
    shape = data.shape
    if data.vocabulary is not None or len(shape) != 3 or min(shape[1:]) < LEAST_SIDE:
        raise DataError(
            f"model resnet18 takes images of (channels, height, width) from {LEAST_SIDE}×{LEAST_SIDE} pixels on, "
            f"usually 32×32 or 224×224; this data set's examples are {shape}"
        )
    return ResNet18(shape[0], data.classes, small=min(shape[1:]) < LARGE_SIDE, norm=config.norm)
