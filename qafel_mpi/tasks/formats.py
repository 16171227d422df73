"""File formats of the data sets. What is corrupt, cut short or missing is an error that names file and place."""

from __future__ import annotations

import gzip
import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


class DataError(Exception):
    """Data that cannot be used; the message names the file, the place in it, and what to do."""


Images = tuple[np.ndarray, np.ndarray]


def locate(name: str, candidates: Sequence[str], data_dir: Path | None, *also: Path) -> Path:
    """The first of the candidates that exists, below data_dir, data_dir/name or a folder of `also`."""
    folders = ([data_dir, data_dir / name] if data_dir is not None else []) + list(also)
    for folder in folders:
        for candidate in candidates:
            path = folder / candidate
            if path.exists():
                return path
    looked = ", ".join(str(folder) for folder in folders) or "nowhere: no data folder is set"
    raise DataError(
        f"data set {name}: {candidates[0]} not found (looked in {looked}); get it with "
        f"`qafel-mpi data fetch {name}`, or set QAFEL_DATA_DIR or --data-dir to the folder that holds it"
    )


def read_libsvm(path: Path, *, features: int) -> tuple[np.ndarray, np.ndarray]:
    """A LIBSVM file as ((n, features) float64, (n,) float64 labels)."""
    labels: list[float] = []
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    number = 0
    with open(path, encoding="utf-8") as lines:
        try:
            for line in lines:
                number += 1
                fields = line.split()
                if not fields:
                    continue
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
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: can't be read: {error}") from error
    if len(data) < 4 + 4 * dimensions or data[:3] != b"\0\0\x08" or data[3] != dimensions:
        raise DataError(f"{path}: not an IDX file of unsigned bytes in {dimensions} dimensions")
    shape = tuple(np.frombuffer(data, ">u4", dimensions, 4).tolist())
    expected = 4 + 4 * dimensions + int(np.prod(shape))
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
    data = np.frombuffer(_bytes(path), np.uint8)
    if data.size == 0 or data.size % 3073:
        raise DataError(f"{path}: {data.size} bytes are no whole records of 3073: cut short?")
    records = data.reshape(-1, 3073)
    if records[:, 0].max() > 9:
        raise DataError(
            f"{path}, record {int(records[:, 0].argmax())}: label {records[:, 0].max()} is not 0 .. 9"
        )
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


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
    try:
        batch = _Unpickler(io.BytesIO(_bytes(path)), encoding="bytes").load()
        pixels, labels = np.asarray(batch[b"data"], np.uint8), np.asarray(batch[b"labels"], np.int64)
        return pixels.reshape(len(labels), 3, 32, 32), labels
    except DataError:
        raise
    except Exception as error:  # a corrupt pickle may fail in any way
        raise DataError(f"{path}: not a CIFAR-10 python batch: {error}") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


# --- CelebA -----------------------------------------------------------------------------------------

Users = tuple[np.ndarray, np.ndarray, np.ndarray]
LEAST_IMAGES = 5


def read_celeba(root: Path) -> tuple[Users, Users]:
    """(images 3×32×32 uint8, Smiling 0/1, user) of the training and of the test users."""
    leaf = [sorted((root / part).glob("*.json")) for part in ("train", "test")]
    parts = [_leaf_users(files) for files in leaf] if all(leaf) else _users_of_lists(root)
    folder = root / "img_align_celeba"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; it should hold CelebA's aligned images")
    train, test = (_load_users(folder, users) for users in parts)
    return train, test


def _leaf_users(files: list[Path]) -> list[list[tuple[str, int]]]:
    """LEAF's JSON: user_data[user] = {"x": file names, "y": labels}."""
    users = []
    for path in files:
        try:
            content = json.loads(_bytes(path))
            for user in content["users"]:
                entry = content["user_data"][user]
                users.append([(str(n), int(y)) for n, y in zip(entry["x"], entry["y"], strict=True)])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not LEAF's JSON for CelebA: {error!r}") from error
    return users


def _users_of_lists(root: Path) -> list[list[list[tuple[str, int]]]]:
    smiling = _table(root / "list_attr_celeba.txt", header=2)
    names = _bytes(root / "list_attr_celeba.txt").decode().splitlines()[1].split()
    if "Smiling" not in names:
        raise DataError(f"{root / 'list_attr_celeba.txt'}, line 2: no attribute Smiling")
    column = 1 + names.index("Smiling")
    by_user: dict[str, list[tuple[str, int]]] = {}
    identity = {row[0]: row[1] for row in _table(root / "identity_CelebA.txt", header=0)}
    for row in smiling:
        if row[0] not in identity:
            raise DataError(f"{root / 'identity_CelebA.txt'}: has no line for {row[0]}")
        by_user.setdefault(identity[row[0]], []).append((row[0], int(row[column] == "1")))
    users = [by_user[u] for u in sorted(by_user, key=int) if len(by_user[u]) >= LEAST_IMAGES]
    order = np.random.default_rng(0).permutation(len(users))
    cut = len(users) * 4 // 5
    return [[users[i] for i in order[:cut]], [users[i] for i in order[cut:]]]


def _table(path: Path, header: int) -> list[list[str]]:
    rows = [line.split() for line in _bytes(path).decode().splitlines()[header:] if line.strip()]
    for number, row in enumerate(rows, header + 1):
        if len(row) != len(rows[0]) or len(row) < 2:
            raise DataError(f"{path}, line {number}: {len(row)} fields, expected {len(rows[0])}")
    if not rows:
        raise DataError(f"{path}: no rows")
    return rows


def _load_users(folder: Path, users: list[list[tuple[str, int]]]) -> Users:
    from PIL import Image

    total = sum(len(images) for images in users)
    x = np.empty((total, 3, 32, 32), np.uint8)
    y = np.empty(total, np.int64)
    groups = np.repeat(np.arange(len(users)), [len(images) for images in users])
    for k, (name, label) in enumerate(entry for images in users for entry in images):
        path = folder / name
        try:
            with Image.open(path) as image:
                x[k] = _square(image.convert("RGB")).transpose(2, 0, 1)
        except OSError as error:
            raise DataError(f"{path}: not a readable image: {error}") from error
        y[k] = label
    return x, y, groups


def _square(image: Any) -> np.ndarray:
    """The shorter side to 32 pixels, then the middle 32×32, as the authors' transforms do."""
    scale = 32 / min(image.size)
    width, height = (max(32, round(side * scale)) for side in image.size)
    left, top = (width - 32) // 2, (height - 32) // 2
    return np.asarray(image.resize((width, height)).crop((left, top, left + 32, top + 32)))
