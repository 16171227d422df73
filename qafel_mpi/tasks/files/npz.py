"""numpy's .npz: arrays x, y and client, and for a test part test_x and test_y.

task.fields gives other names to the first three. An array of Python objects, which only pickle could load, is
refused: save names as text, `np.array(names, dtype=str)`.
"""

from __future__ import annotations

import lzma
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.datasets import Dataset
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.files.parts import Part, dataset, hold_out

# What zipfile and numpy raise on bytes that are not what they should be.
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,  # an encrypted member, a compression that this Python lacks
    MemoryError,  # an array that says it is larger than memory
    OverflowError,
    SyntaxError,
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


def read(path: Path, config: TaskConfig) -> Dataset:
    """Raises DataError naming file and array."""
    names = {
        "x": config.fields.x or "x",
        "y": config.fields.y or "y",
        "client": config.fields.client or "client",
    }
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: one array, and not an .npz of several")
            if missing := [name for name in names.values() if name not in file]:
                raise DataError(
                    f"{path}: no array {', '.join(missing)}; there are {', '.join(sorted(file.files))}. "
                    "task.fields says which ones are x, y and client"
                )
            arrays = {role: _array(path, file, name) for role, name in names.items()}
            test = {name: _array(path, file, name) for name in ("test_x", "test_y") if name in file}
    except UNREADABLE as error:
        raise DataError(f"{path}: not an .npz that can be read: {error}") from error
    lengths = {role: len(array) if array.ndim else 0 for role, array in arrays.items()}
    if len(set(lengths.values())) != 1 or not lengths["x"]:
        raise DataError(f"{path}: {', '.join(f'{n} in {names[role]}' for role, n in lengths.items())}")
    whole = Part(**arrays)
    if len(test) == 1:
        raise DataError(f"{path}: test_x and test_y go together")
    if not test:
        return dataset(path, config, *hold_out(path, whole))
    unknown = np.zeros(test["test_y"].shape[:1], np.int64)
    return dataset(path, config, whole, Part(test["test_x"], test["test_y"], unknown))


def _array(path: Path, file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        return file[name]
    except ValueError as error:
        raise DataError(
            f"{path}, array {name}: {error}; save it as numbers or as text (dtype=str)"
        ) from error
