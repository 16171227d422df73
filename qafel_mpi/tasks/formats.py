"""File formats of the data sets. What is corrupt, cut short or missing is an error that names file and place."""

from __future__ import annotations

import gzip
import io
import math
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from qafel_mpi.parsing import DataError, Place, integer, lines, read_bytes, real

_PIECE_BYTES = 1 << 20
Images = tuple[np.ndarray, np.ndarray]


def locate(
    name: str, candidates: Sequence[str], data_dir: Path | None, *also: Path, how: str | None = None
) -> Path:
    """The first of the candidates that exists, below data_dir, data_dir/name or a folder of `also`.

    how: to get the data set; by default, to download it. Raises DataError, which says it and where it looked.
    """
    folders = ([data_dir, data_dir / name] if data_dir is not None else []) + list(also)
    for folder in folders:
        for candidate in candidates:
            path = folder / candidate
            if path.exists():
                return path
    looked = ", ".join(str(folder) for folder in folders) or "no folder: none is set"
    raise DataError(
        f"data set {name}: {candidates[0]} not found (looked in {looked}); "
        f"{how or f'download it with `qafel-mpi data fetch {name}`'}, "
        "or set QAFEL_DATA_DIR or --data-dir to the folder that holds it"
    )


def read_libsvm(path: Path, *, features: int) -> tuple[np.ndarray, np.ndarray]:
    """A LIBSVM file of two classes as ((n, features) float64, (n,) int64 labels 0 and 1).

    The larger of the file's two labels is 1. Indices are from 1, in any order; '#' begins a comment.
    Raises DataError naming value, file and line.
    """
    labels: list[float] = []
    rows: list[dict[int, float]] = []
    known: dict[str, tuple[int, float]] = {}
    for place, (label, *fields) in lines(path):
        labels.append(real(label, place, "label"))
        rows.append(_libsvm_row(fields, place, features, known))
    found = sorted(set(labels))
    if len(found) != 2:
        shown = ", ".join(f"{label:g}" for label in found[:5]) or "none"
        raise DataError(f"{path}: {len(labels)} examples with labels {shown}; exactly two labels are needed")
    x = np.zeros((len(rows), features))
    for values, row in zip(x, rows, strict=True):
        values[list(row)] = list(row.values())
    return x, (np.array(labels) == found[1]).astype(np.int64)


def _libsvm_row(
    fields: Sequence[str], place: Place, features: int, known: dict[str, tuple[int, float]]
) -> dict[int, float]:
    """The values of one line by column, from 0. known: fields already read, which many lines share."""
    row: dict[int, float] = {}
    for field in fields:
        if field not in known:
            known[field] = _libsvm_field(field, place, features)
        column, value = known[field]
        if column in row:
            raise place.error(f"feature {column + 1} occurs twice")
        row[column] = value
    return row


def _libsvm_field(field: str, place: Place, features: int) -> tuple[int, float]:
    index, colon, value = field.partition(":")
    if not colon:
        raise place.error(f"{field!r} is not of the form index:value")
    column = integer(index, place, "feature", least=1, most=features) - 1
    return column, real(value, place, f"feature {index}'s value")


def read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    """An IDX file of unsigned bytes, plain or .gz: the MNIST family's format."""
    begins = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            head = file.read(begins)
            if len(head) < begins or head[:3] != b"\0\0\x08" or head[3] != dimensions:
                raise DataError(f"{path}: not an IDX file of unsigned bytes in {dimensions} dimensions")
            shape = tuple(np.frombuffer(head, ">u4", dimensions, 4).tolist())
            data = _at_most(
                file, math.prod(shape) + 1
            )  # what it holds beyond its header's word is not made room for
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: can't be read, cut short? {error}") from error
    if (size := len(data)) != math.prod(shape):
        found = f"more than {begins + size - 1}" if size > math.prod(shape) else f"{begins + size}"
        raise DataError(
            f"{path}: {found} bytes, its header {shape} asks for {begins + math.prod(shape)}: cut short?"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _at_most(file: IO[bytes] | gzip.GzipFile, size: int) -> bytearray:
    """The file's next bytes, up to so many: memory grows with what is there."""
    data = bytearray()
    while len(data) < size and (piece := file.read(min(_PIECE_BYTES, size - len(data)))):
        data += piece
    return data


def read_cifar10(root: Path) -> tuple[Images, Images]:
    """((50000 × 3 × 32 × 32 uint8, labels), the same of the test batch) from python or binary batches."""
    if root.name.endswith("-bin"):
        train = [_cifar_binary(root / f"data_batch_{i}.bin") for i in range(1, 6)]
        return _stack(train), _cifar_binary(root / "test_batch.bin")
    train = [_cifar_pickled(root / f"data_batch_{i}") for i in range(1, 6)]
    return _stack(train), _cifar_pickled(root / "test_batch")


def _stack(parts: list[Images]) -> Images:
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def _cifar_binary(path: Path) -> Images:
    data = np.frombuffer(read_bytes(path), np.uint8)
    if data.size == 0 or data.size % 3073:
        raise DataError(f"{path}: {data.size} bytes are no whole records of 3073: cut short?")
    records = data.reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), _cifar_labels(path, records[:, 0])


def _cifar_labels(path: Path, labels: np.ndarray) -> np.ndarray:
    wrong = np.flatnonzero((labels < 0) | (labels > 9))
    if wrong.size:
        raise DataError(f"{path}, record {wrong[0]}: label {labels[wrong[0]]} is not 0 .. 9")
    return labels


class _Unpickler(pickle.Unpickler):
    """Reads what CIFAR-10's python batches hold, numpy arrays of numbers, and nothing that runs other code."""

    ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which a CIFAR-10 batch has no use for"
            )
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _cifar_pickled(path: Path) -> Images:
    data = read_bytes(path)
    try:
        batch = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        labels = _whole("labels", batch[b"labels"]).astype(np.int64)
        pixels = _whole("data", batch[b"data"], most=255).astype(np.uint8).reshape(len(labels), 3, 32, 32)
    except Exception as error:  # a corrupt pickle may fail in any way
        raise DataError(f"{path}: not a CIFAR-10 python batch, or cut short: {error}") from error
    return pixels, _cifar_labels(path, labels)


def _whole(name: str, values: Any, most: int = 2**62) -> np.ndarray:
    """Values of a batch as an array of integers from 0 to most. Raises ValueError: a cast would alter others."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} are {array.dtype}, not integers")
    if array.size and not 0 <= array.min() <= array.max() <= most:
        raise ValueError(f"{name} from {array.min()} to {array.max()}, which is not 0 .. {most}")
    return array
