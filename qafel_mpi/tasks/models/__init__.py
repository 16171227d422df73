"""Models: torch modules by name, one file a family, and vectors without a model."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.models import cnn, mlp, resnet, transformer
from qafel_mpi.tasks.models.vectors import VECTORS
from qafel_mpi.tasks.targets import Signature

__all__ = ["MODELS", "VECTORS"]

MODELS: dict[str, Callable[[TaskConfig, Signature], nn.Module]] = {
    "mlp": mlp.mlp,
    "cnn": cnn.cnn,
    "resnet18": resnet.resnet18,
    "transformer": transformer.transformer,
}
