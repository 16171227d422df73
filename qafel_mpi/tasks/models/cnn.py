"""The paper's convolutional network."""

from __future__ import annotations

from torch import Tensor, nn

from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.models.cnn_block import PADDING, block
from qafel_mpi.tasks.targets import Signature

SIDES = (28, 32)


class CNN(nn.Module):
    """The CelebA and CIFAR-10 network of the paper's experiments: 29,282 parameters for 2 classes, 31,594 for 10.

    Four times conv 3×3 (to 32 channels, padding 2, bias), GroupNorm (32 groups; one instance for all four blocks),
    ReLU, max-pool 2; then dropout and a linear layer on 288 = 32·3·3. Inputs: (n, channels, side, side), where
    side is 32, or 28, of which the blocks make the same 3×3.
    """

    def __init__(self, channels: int, classes: int, dropout: float):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels if block == 0 else 32, 32, 3, padding=PADDING) for block in range(4)
        )
        self.norm = nn.GroupNorm(32, 32)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(288, classes)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = block(convolution, self.norm, x)  # type: ignore[arg-type]
        return self.linear(self.dropout(x.flatten(1)))


def cnn(config: TaskConfig, data: Signature) -> nn.Module:
    """Raises DataError where the examples are no small images."""
    shape = data.shape
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] not in SIDES:
        raise DataError(
            "model cnn takes images of (channels, 32, 32) or (channels, 28, 28), "
            f"this data set's examples are {shape}; task.shape reshapes those of files"
        )
    return CNN(shape[0], data.classes, config.dropout)
