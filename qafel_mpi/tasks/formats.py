"""File formats of the data sets. What is corrupt, cut short or missing is an error that names file and place."""

from __future__ import annotations

import gzip
import io
import math
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from qafel_mpi.tasks.errors import DataError

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
    """A LIBSVM file as ((n, features) float64, (n,) float64 labels)."""
    labels: list[float] = []
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        try:
            labels.append(float(fields[0]))
            for field in fields[1:]:
                index, value = field.split(":")
                if not 1 <= int(index) <= features:
                    raise ValueError(f"feature {index} is not in 1 .. {features}")
                rows.append(len(labels) - 1)
                columns.append(int(index) - 1)
                values.append(float(value))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; expected 'label index:value ...'") from None
    if not labels:
        raise DataError(f"{path}: no examples")
    x = np.zeros((len(labels), features))
    x[rows, columns] = values
    return x, np.array(labels)


def read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    """An IDX file of unsigned bytes, plain or .gz: the MNIST family's format."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: can't be read, cut short? {error}") from error
    if len(data) < 4 + 4 * dimensions or data[:3] != b"\0\0\x08" or data[3] != dimensions:
        raise DataError(f"{path}: not an IDX file of unsigned bytes in {dimensions} dimensions")
    shape = tuple(np.frombuffer(data, ">u4", dimensions, 4).tolist())
    expected = 4 + 4 * dimensions + math.prod(shape)
    if len(data) != expected:
        raise DataError(f"{path}: {len(data)} bytes, its header {shape} asks for {expected}: cut short?")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


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
        labels = np.asarray(batch[b"labels"], np.int64)
        pixels = np.asarray(batch[b"data"], np.uint8).reshape(len(labels), 3, 32, 32)
    except Exception as error:  # a corrupt pickle may fail in any way
        raise DataError(f"{path}: not a CIFAR-10 python batch, or cut short: {error}") from error
    return pixels, _cifar_labels(path, labels)


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def read_text(path: Path) -> str:
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, byte {error.start}: not text: {error.reason}") from error
