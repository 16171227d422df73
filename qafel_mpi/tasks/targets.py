"""What the model is to say of an example, how its outputs are judged, and which arrays fit.

kind      y                              outputs                 loss of an example                 accuracy
classes   (n,) integers                  (n, classes)            cross-entropy                      of examples
tokens    (n, positions) integers        (n, positions, classes) mean cross-entropy a position      of positions
labels    (n, classes) of 0 and 1        (n, classes)            mean binary cross-entropy a label  of labels
values    (n,) or (n, classes) floats    (n, classes)            mean squared error a value         none

`classes` is the number of outputs in each row of the table: of classes, of a vocabulary, of labels, of values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, log_softmax, mse_loss

from qafel_mpi.tasks.errors import DataError

Targets = Literal["classes", "tokens", "labels", "values"]
KINDS: tuple[Targets, ...] = ("classes", "tokens", "labels", "values")
Reduction = Literal["mean", "none"]
NUMPY: dict[torch.dtype, type[np.float32] | type[np.float64]] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
}


@dataclass(frozen=True)
class Signature:
    """What a model has to fit. shape: of an example; classes: outputs; vocabulary: of examples that are tokens."""

    shape: tuple[int, ...]
    classes: int
    vocabulary: int | None = None
    targets: Targets = "classes"


def loss(kind: Targets, outputs: Tensor, y: Tensor, reduction: Reduction = "mean") -> Tensor:
    """The mean over the examples, or each example's own, (n,)."""
    if kind == "classes":
        return _cross_entropy(outputs, y, reduction)
    if reduction == "mean":
        return _elementwise(kind, outputs, y, "mean")
    return _elementwise(kind, outputs, y, "none").reshape(y.shape).mean(1)


def _elementwise(kind: Targets, outputs: Tensor, y: Tensor, reduction: Reduction) -> Tensor:
    if kind == "tokens":
        return _cross_entropy(outputs.flatten(0, 1), y.flatten(), reduction)
    if kind == "labels":
        return binary_cross_entropy_with_logits(outputs, y, reduction=reduction)
    return mse_loss(outputs, y, reduction=reduction)


def _cross_entropy(outputs: Tensor, y: Tensor, reduction: Reduction) -> Tensor:
    """torch's; with "none" in its own words, of the same bits, because its way under vmap imports sympy."""
    if reduction == "mean":
        return cross_entropy(outputs, y)
    return -log_softmax(outputs, 1).gather(1, y[:, None]).squeeze(1)


def accuracy(kind: Targets, outputs: Tensor, y: Tensor) -> float:
    """The share of right answers; nan for values."""
    if kind == "values":
        return math.nan
    right = (outputs > 0) == (y > 0) if kind == "labels" else outputs.argmax(-1) == y
    return int(right.sum()) / y.numel()


def answers(kind: Targets, y: Tensor) -> int:
    """How many answers of an example the accuracy counts."""
    return y[0].numel() if kind in ("tokens", "labels") else 1


def fitted(kind: Targets, y: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """y in the type of loss and accuracy; tokens keep the small type they have, for `taken` to widen a batch."""
    if kind == "tokens":
        return np.ascontiguousarray(y)
    if kind == "classes":
        return np.ascontiguousarray(y, np.int64)
    return np.ascontiguousarray(y.reshape(len(y), -1), NUMPY[dtype])


def taken(kind: Targets, y: Tensor) -> Tensor:
    """The y of a batch, as loss and accuracy take it."""
    return y.long() if kind == "tokens" else y


def output_shape(kind: Targets, y: Tensor, classes: int) -> tuple[int, ...]:
    """The shape of what a model gives for the examples that y belongs to."""
    return (*y.shape, classes) if kind == "tokens" else (len(y), classes)


def outputs_of(kind: Targets, y: np.ndarray) -> int:
    """How many outputs an example of labels or values needs."""
    return math.prod(y.shape[1:]) if kind in ("labels", "values") else 0


def check_targets(part: str, kind: Targets, y: np.ndarray, classes: int) -> None:
    """Raise DataError where y, of this part of a data set, is no targets of this kind."""
    where = f"data set, {part} part: "
    if kind == "values":
        if y.dtype.kind not in "iuf" or y.ndim not in (1, 2):
            raise DataError(f"{where}values are {y.dtype} {y.shape}; make them floats (n,) or (n, values)")
    elif y.ndim != (1 if kind == "classes" else 2) or y.dtype.kind not in (
        "biu" if kind == "labels" else "iu"
    ):
        raise DataError(f"{where}{kind} are {y.dtype} {y.shape}; {_WANTED[kind]}")
    if kind in ("labels", "values"):
        if outputs_of(kind, y) != classes:
            raise DataError(f"{where}{outputs_of(kind, y)} {kind} an example, {classes} expected")
        if kind == "labels" and (y.min() < 0 or y.max() > 1):
            raise DataError(f"{where}labels from {y.min()} to {y.max()}; each is 0 or 1")
    elif y.min() < 0 or y.max() >= classes:
        raise DataError(f"{where}labels from {y.min()} to {y.max()}, which is not 0 .. {classes - 1}")


_WANTED = {
    "classes": "make them integers (n,), or set targets = 'labels' for several labels of 0 and 1 an example, "
    "'tokens' for a class at each position, 'values' for regression",
    "tokens": "make them integers (n, positions)",
    "labels": "make them integers 0 and 1, (n, labels)",
}
