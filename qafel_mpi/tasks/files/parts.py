"""What every format ends in: a training and a test part, and the data set that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.datasets import PIXEL_SCALE, PIXEL_SHIFT, Dataset, require_examples
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.targets import Targets

HELD_OUT = 5  # where a file has no test part: each client's every fifth example


@dataclass(frozen=True)
class Part:
    """x: (n, …); y: (n,) or (n, k); client: (n,), names or numbers."""

    x: np.ndarray
    y: np.ndarray
    client: np.ndarray


def stack(where: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The clients' arrays, one after the other. Raises DataError where their examples differ in shape."""
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) != 1:
        some = ", ".join(map(str, sorted(shapes, key=str)[:3])) or "none"
        raise DataError(f"{where}: clients have examples of different shapes: {some}")
    return np.concatenate(arrays)


def hold_out(path: Path, part: Part) -> tuple[Part, Part]:
    """Training and test part: each client's every fifth example tests, counted in the order of the file."""
    _require_one_each(path, part)
    order = np.argsort(part.client, kind="stable")
    _, begins, counts = np.unique(part.client[order], return_index=True, return_counts=True)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - np.repeat(begins, counts)
    test = place % HELD_OUT == HELD_OUT - 1
    if not test.any():
        raise DataError(
            f"{path}: there is no test part, and no client has the {HELD_OUT} examples to hold one out"
        )
    return tuple(Part(part.x[k], part.y[k], part.client[k]) for k in (~test, test))  # type: ignore[return-value]


def _require_one_each(path: Path, part: Part) -> None:
    """Raises DataError where clients are no names or numbers, one an example."""
    if part.client.shape != (len(part.x),):
        raise DataError(
            f"{path}: clients of shape {part.client.shape} for {len(part.x)} examples: one for each"
        )


def dataset(path: Path, config: TaskConfig, train: Part, test: Part, **fields: Any) -> Dataset:
    """The data set of both parts; `fields` of Dataset that the format knows come before what the arrays tell.

    Floats in y are values to predict, whole numbers (n,) classes, (n, k) of 0 and 1 labels, or tokens where x is.
    x of whole numbers are tokens, of uint8 pixels. task.shape reshapes an example.
    """
    for name, part in (("training", train), ("test", test)):
        require_examples(f"{path}, {name} part", part.x, part.y)
    _require_one_each(path, train)
    if train.y.dtype.kind not in "iufb" or test.y.dtype.kind not in "iufb":
        raise DataError(f"{path}: y is {train.y.dtype} in training, {test.y.dtype} in test; make it numbers")
    x, test_x = (_shaped(path, config, part.x) for part in (train, test))
    if x.dtype.kind in "iu" and x.dtype != np.uint8 and "vocabulary" not in fields:
        fields["vocabulary"] = 1 + int(max(x.max(), test_x.max()))
    if x.dtype == np.uint8 and "vocabulary" not in fields:
        fields |= {"scale": PIXEL_SCALE, "shift": PIXEL_SHIFT}
    kind: Targets = fields.setdefault("targets", _kind(train.y, fields.get("vocabulary") is not None))
    if kind in ("classes", "tokens") and "classes" not in fields:
        highest = 1 + int(max(train.y.max(), test.y.max()))
        fields["classes"] = config.classes or max(
            2, highest, fields.get("vocabulary", 0) * (kind == "tokens")
        )
    if kind == "tokens":
        fields["vocabulary"] = max(fields["vocabulary"], fields["classes"])
    try:
        return Dataset(x, train.y, test_x=test_x, test_y=test.y, groups=train.client, **fields)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _kind(y: np.ndarray, tokens: bool) -> Targets:
    if y.dtype.kind == "f":
        return "values"
    if y.ndim == 1:
        return "classes"
    return "tokens" if tokens else "labels"


def _shaped(path: Path, config: TaskConfig, x: np.ndarray) -> np.ndarray:
    if config.shape is None:
        return x
    try:
        return x.reshape(len(x), *config.shape)
    except ValueError:
        raise DataError(
            f"{path}: examples of shape {x.shape[1:]} can't take task.shape = {list(config.shape)}"
        ) from None
