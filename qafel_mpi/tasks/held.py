"""What a task keeps of its data: plain arrays, so that a driver can hold them once for all ranks of a host.

A task is built in two parts. `make` loads, converts and deals the data, which takes long and much memory; it returns
arrays in the form in which they are used. `once(make)` gives these arrays, and a driver decides where make is called
and where they lie. They may be read-only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from qafel_mpi.tasks.datasets import Dataset
from qafel_mpi.tasks.examples import fitted
from qafel_mpi.tasks.partitions import Partition

Arrays = dict[str, np.ndarray]
Once = Callable[[Callable[[], Arrays]], Arrays]
ARRAYS = ("x", "y", "test_x", "test_y", "groups")
WORDS = tuple(field.name for field in fields(Dataset) if field.name not in ARRAYS)  # what is no array
ABOUT = "about"  # the array that holds what is no array, as JSON


def here(make: Callable[[], Arrays]) -> Arrays:
    """The Once of a process on its own."""
    return make()


def packed(about: Mapping[str, Any], **arrays: np.ndarray | None) -> Arrays:
    """Arrays, those that are None left out; about: what is no array, of types that JSON has or of numpy's numbers."""
    text = np.frombuffer(json.dumps(about, default=lambda number: number.item()).encode(), np.uint8)
    return {ABOUT: text} | {name: array for name, array in arrays.items() if array is not None}


def about(arrays: Arrays) -> dict[str, Any]:
    """What `packed` was told beside the arrays."""
    found: dict[str, Any] = json.loads(arrays[ABOUT].tobytes())
    return found


def pack(data: Dataset, dealt: Partition, dtype: torch.dtype) -> Arrays:
    """A data set and its partition, in the types that a model on the flat vector of dtype is trained with.

    The natural clients are left out: they are in the partition already. Raises DataError where dtype is too small.
    """
    tokens = data.vocabulary is not None
    x, y = fitted("training", data.targets, data.x, data.y, dtype, tokens=tokens)
    arrays = {"x": x, "y": y, "order": dealt.order, "offsets": dealt.offsets}
    if data.test_x is not None:
        test = fitted("test", data.targets, *data.evaluated, dtype, tokens=tokens)
        arrays |= dict(zip(("test_x", "test_y"), test, strict=True))
    return packed({name: getattr(data, name) for name in WORDS}, **arrays)


def unpack(arrays: Arrays) -> tuple[Dataset, Partition]:
    """The inverse of pack. The data were checked when they were packed: nothing is looked at, or converted, again."""
    data = object.__new__(Dataset)
    for name, value in ({name: arrays.get(name) for name in ARRAYS} | about(arrays)).items():
        object.__setattr__(data, name, value)
    return data, Partition(arrays["order"], arrays["offsets"])
