"""HDF5 as TensorFlow Federated lays it out: examples/CLIENT/FIELD, a data set a field with a row an example.

A file, or a folder of one *train*.h5 and one *test*.h5, as fed_emnist_train.h5 and fed_emnist_test.h5. The field y is
`label`; x is the only other one, or what task.fields names. Images become channels first, as torch has them. Where
there is no label and x is text (Shakespeare's `snippets`), the next byte is predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qafel_mpi.hdf5 import crash
from qafel_mpi.parsing import Place, visible
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.datasets import Dataset
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.files.parts import Part, dataset, hold_out, stack
from qafel_mpi.tasks.text import USUAL_CONTEXT, VOCABULARY, windows

LABEL = "label"


def read(path: Path, config: TaskConfig) -> Dataset:
    """Raises DataError naming file, client and field."""
    files = [path] if path.is_file() else [_one(path, name) for name in ("train", "test")]
    text, parts = False, []
    for file in files:
        text, part = _opened(file, lambda group, place: _part(group, place, config))
        parts.append(part)
    train, test = parts if len(parts) == 2 else hold_out(path, parts[0])
    if not text:
        return dataset(path, config, train, test)
    about = {"vocabulary": VOCABULARY, "classes": VOCABULARY, "targets": "tokens", "bytes_per_token": 1.0}
    return dataset(path, config, train, test, **about)


def _one(folder: Path, name: str) -> Path:
    found = [path for path in visible(folder, f"*{name}*") if path.suffix in (".h5", ".hdf5")]
    if len(found) != 1:
        raise DataError(f"{folder}: {len(found)} files *{name}*.h5 in it; one is needed")
    return found[0]


def _opened(path: Path, read: Callable[[Any, Place], tuple[bool, Part]]) -> tuple[bool, Part]:
    if why := crash(path):
        raise DataError(f"{path}: damaged: {why}; get another copy")
    try:
        with h5py.File(path, "r") as file:
            group = file.get("examples")
            if not isinstance(group, h5py.Group) or not len(group):
                raise DataError(f"{path}: no group examples with a group a client in it")
            return read(group, Place(path).at("examples"))
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not an HDF5 file that can be read: {error}") from error


def _part(group: h5py.Group, place: Place, config: TaskConfig) -> tuple[bool, Part]:
    """(whether it is text, the examples of all clients in the order of their names)."""
    names = sorted(group)
    x_name, y_name = _fields(group[names[0]], place.at(names[0]), config)
    xs = [_field(group, place, name, x_name) for name in names]
    if y_name is None:
        joined = [b"\n".join(bytes(snippet) for snippet in x.tolist()) for x in xs]
        x, y, user = windows(joined, config.context or USUAL_CONTEXT)
        return True, Part(x, y, np.array(names)[user])
    ys = [_field(group, place, name, y_name) for name in names]
    for name, x, y in zip(names, xs, ys, strict=True):
        if len(x) != len(y):
            raise place.at(name).error(f"{len(x)} in {x_name} and {len(y)} in {y_name}")
    client = np.repeat(names, [len(x) for x in xs])
    y = stack(f"{place}, field {y_name}", ys)
    return False, Part(_channels_first(stack(f"{place}, field {x_name}", xs)), y, client)


def _fields(client: Any, place: Place, config: TaskConfig) -> tuple[str, str | None]:
    """The fields of x and y; without the latter x is text."""
    if not isinstance(client, h5py.Group):
        raise place.error("no group of fields")
    fields = config.fields
    y = fields.y or (LABEL if LABEL in client else None)
    rest = [name for name in client if name != y]
    x = fields.x or (rest[0] if len(rest) == 1 else None)
    if x is None:
        raise place.error(f"fields {', '.join(client)}; task.fields.x says which one has the examples")
    if y is None and x in client and h5py.check_string_dtype(client[x].dtype) is None:
        raise place.error(f"no field {LABEL}, and {x} is no text; task.fields.y says which one is the label")
    return x, y


def _field(group: h5py.Group, place: Place, name: str, field: str) -> np.ndarray:
    place = place.at(name)
    client = group[name]
    data = client.get(field) if isinstance(client, h5py.Group) else None
    if not isinstance(data, h5py.Dataset) or data.ndim < 1:
        raise place.error(f"no field {field} with a row an example")
    text = h5py.check_string_dtype(data.dtype) is not None
    if not text and data.dtype.kind not in "iufb":
        raise place.at(field).error(f"{data.dtype} is neither numbers nor text")
    return data[:]


def _channels_first(x: np.ndarray) -> np.ndarray:
    """Images (n, height, width) and (n, height, width, channels) as (n, channels, height, width)."""
    if x.ndim == 3:
        return x[:, None]
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x
