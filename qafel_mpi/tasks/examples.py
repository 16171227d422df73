"""A data set's arrays as tensors where the training is, and batches of them as a model sees them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.kernels.memory import tensor_of
from qafel_mpi.tasks import targets
from qafel_mpi.tasks.datasets import Dataset
from qafel_mpi.tasks.errors import DataError

EVALUATION_BATCH = {"cpu": 100, "cuda": 1000}  # a CNN's activations should fit into a core's cache
SMALL_BATCH = 1000  # of a model of one small layer
EVALUATION_OUTPUTS = 2**25  # at most, of a batch: of a large vocabulary they need more memory than all else


class Examples:
    """Pixels stay bytes and tokens keep their small type: what a model sees is made batch by batch.

    A model sees x·scale + shift. x, y: all training examples; test_x, test_y: those that are evaluated, which may be
    the same.
    """

    def __init__(self, data: Dataset, dtype: torch.dtype, device: torch.device):
        self.dtype, self.device = dtype, device
        self.kind, self.classes, self.tokens = data.targets, data.classes, data.vocabulary is not None
        self.scale, self.shift = data.scale, data.shift
        self.x, self.y = self._placed("training", data.x, data.y)
        self.test_x, self.test_y = (
            self._placed("test", *data.evaluated) if data.test_x is not None else (self.x, self.y)
        )

    def __len__(self) -> int:
        return len(self.y)

    def taken(self, batch: Tensor | slice) -> tuple[Tensor, Tensor]:
        """(x, y) of some training examples, as the model and the loss take them."""
        x = (
            self.x[batch].clone() if isinstance(batch, slice) else self.x[batch]
        )  # a model may write into its input
        return self._seen(x), targets.taken(self.kind, self.y[batch])

    def tested(self, where: slice) -> tuple[Tensor, Tensor]:
        """The same of the examples that are evaluated."""
        return self._seen(self.test_x[where].clone()), targets.taken(self.kind, self.test_y[where])

    def slices(self, n: int, *, small: bool = False) -> list[slice]:
        """Batches for a pass over n examples. Of one example only where n is 1: some layers need two.

        small: the model's activations are so few that larger batches fit as well, and calls cost most.
        """
        outputs = math.prod(targets.output_shape(self.kind, self.y[:1], self.classes))
        most = SMALL_BATCH if small else EVALUATION_BATCH.get(self.device.type, 100)
        size = min(most, max(2, EVALUATION_OUTPUTS // outputs))
        begins = list(range(0, n, size))
        if n > 1 and n - begins[-1] == 1:
            begins.pop()
        return [slice(begin, end) for begin, end in zip(begins, [*begins[1:], n], strict=True)]

    def _placed(self, part: str, x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
        """Raises DataError where a number is too large for dtype."""
        x, y = fitted(part, self.kind, x, y, self.dtype, tokens=self.tokens)
        return tensor_of(x).to(self.device), tensor_of(y).to(self.device)

    def _seen(self, x: Tensor) -> Tensor:
        if self.tokens:
            return x.long()
        if x.dtype == self.dtype and (self.scale, self.shift) == (1.0, 0.0):
            return x
        return (x.to(self.dtype) * self.scale).add_(self.shift)


def fitted(
    part: str, kind: targets.Targets, x: np.ndarray, y: np.ndarray, dtype: torch.dtype, *, tokens: bool
) -> tuple[np.ndarray, np.ndarray]:
    """x and y in the types that they are held in: the arrays themselves where they have them already.

    Raises DataError where a number is too large for dtype.
    """
    for array in (x, y):
        if array.dtype.kind == "f" and array.dtype.itemsize > dtype.itemsize:
            _require_room(part, array, dtype)
    small = tokens or x.dtype == np.uint8
    x = np.ascontiguousarray(x) if small else np.ascontiguousarray(x, targets.NUMPY[dtype])
    return x, targets.fitted(kind, y, dtype)


def _require_room(part: str, array: np.ndarray, dtype: torch.dtype) -> None:
    if max(abs(array.max(initial=0)), abs(array.min(initial=0))) > torch.finfo(dtype).max:
        at = np.argwhere(np.abs(array) > torch.finfo(dtype).max)[0].tolist()
        raise DataError(
            f"data set, {part} part: {array[tuple(at)]:g} at {tuple(at)} is too large for {dtype}; set "
            "task.dtype = 'float64', or scale it"
        )
