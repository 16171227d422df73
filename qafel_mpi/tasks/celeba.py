"""CelebA by celebrity: the attribute Smiling on images of 3×32×32.

Below the folder `celeba` (or its `data`, `raw`, `data/raw`, as LEAF leaves them) lie the folder img_align_celeba
of JPEGs and either LEAF's split by user, train/*.json and test/*.json, or CelebA's own list_attr_celeba.txt and
identity_CelebA.txt: then celebrities with fewer than 5 images are left out, as LEAF does, and a fixed 80% of the
others train (7,474 and 1,869 of the full data set).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qafel_mpi import outputs
from qafel_mpi.parsing import DataError, Place, integer, lines, one_of, read_json, visible, whole

LEAST_IMAGES = 5
SIDE = 32
SPLIT_SEED = 0  # the split is a part of the data set, not of a run
SMILING = {"1": 1, "+1": 1, "-1": 0}  # as the attribute is written

User = list[tuple[str, int]]  # one celebrity's (file name, smiling)


@dataclass(frozen=True)
class Part:
    """x: (n, 3, 32, 32) uint8; y: (n,) 0 or 1; user: (n,), from 0."""

    x: np.ndarray
    y: np.ndarray
    user: np.ndarray


def read_celeba(root: Path) -> tuple[Part, Part]:
    """Training and test part. root: the folder `celeba`, or img_align_celeba itself. Raises DataError."""
    root = root.parent if root.name == "img_align_celeba" else root
    train, test = _find(root, "train", "*.json"), _find(root, "test", "*.json")
    users = (_leaf_users(train), _leaf_users(test)) if train and test else _users_of_lists(root)
    folder = _one(root, "img_align_celeba")
    return _part(folder, users[0]), _part(folder, users[1])


def _find(root: Path, name: str, pattern: str | None = None) -> list[Path]:
    """root/name, or the files in it, from the first place that has them."""
    for place in (root, root / "data", root / "raw", root / "data" / "raw"):
        path = place / name
        found = visible(path, pattern) if pattern else [path] * path.exists()
        if found:
            return found
    return []


def _one(root: Path, name: str) -> Path:
    found = _find(root, name)
    if not found:
        raise DataError(
            f"{root}: no {name} in it, nor in its folders data, raw, data/raw; CelebA is given out at "
            "mmlab.ie.cuhk.edu.hk/projects/CelebA.html, for research that accepts its terms"
        )
    return found[0]


def _leaf_users(files: list[Path]) -> list[User]:
    """LEAF's JSON: user_data[user] = {"x": file names, "y": labels 0 or 1, as integers or floats}."""
    users: dict[str, User] = {}
    for path in files:
        content = read_json(path)
        try:
            for name in content["users"]:
                place = Place(path).at("user_data", name)
                if name in users:
                    raise place.error("the user occurs twice in this part of the split")
                x, y = content["user_data"][name]["x"], content["user_data"][name]["y"]
                labels = [whole(label, place, f"label {i}", least=0, most=1) for i, label in enumerate(y)]
                users[name] = list(zip(map(_file_name, x), labels, strict=True))
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(f"{path}: not LEAF's JSON for CelebA: {error!r}") from error
    return list(users.values())


def _file_name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not the name of an image")
    return value


def _users_of_lists(root: Path) -> tuple[list[User], list[User]]:
    attributes, identities = _one(root, "list_attr_celeba.txt"), _one(root, "identity_CelebA.txt")
    identity = {
        name: integer(number, place, f"{name}'s celebrity", least=0)
        for name, (place, (number,)) in _rows(lines(identities), fields=1).items()
    }
    by_user: dict[int, User] = {}
    for name, smiling in _smiling(attributes).items():
        if name not in identity:
            raise DataError(f"{identities}: no celebrity's number for {name}")
        by_user.setdefault(identity[name], []).append((name, smiling))
    users = [by_user[u] for u in sorted(by_user) if len(by_user[u]) >= LEAST_IMAGES]
    if len(users) < 2:
        raise DataError(f"{identities}: {len(users)} celebrities with {LEAST_IMAGES} images; 2 are needed")
    order = np.random.default_rng(SPLIT_SEED).permutation(len(users))
    cut = len(users) * 4 // 5
    return [users[i] for i in order[:cut]], [users[i] for i in order[cut:]]


def _smiling(path: Path) -> dict[str, int]:
    """Image -> 0 or 1, from list_attr_celeba.txt: the number of images (a copy lacks it), the names, the rows."""
    rows = lines(path)
    place, names = next(rows, (Place(path), []))
    count = integer(names[0], place, "number of images") if len(names) == 1 else None
    if count is not None:
        place, names = next(rows, (place, []))
    if "Smiling" not in names:
        raise place.error("no attribute Smiling among the names")
    column = names.index("Smiling")
    found = _rows(rows, fields=len(names))
    if count not in (None, len(found)):
        raise DataError(f"{path}: {len(found)} images; its first line says {count}: cut short?")
    return {
        name: one_of(values[column], SMILING, at, f"{name}'s attribute Smiling")
        for name, (at, values) in found.items()
    }


def _rows(rows: Iterable[tuple[Place, list[str]]], *, fields: int) -> dict[str, tuple[Place, list[str]]]:
    """Image -> (place, the fields behind its name)."""
    found: dict[str, tuple[Place, list[str]]] = {}
    for place, (name, *values) in rows:
        if len(values) != fields:
            raise place.error(f"{1 + len(values)} fields, expected {1 + fields}: cut short?")
        if name in found:
            raise place.error(f"{name} occurs twice")
        found[name] = place, values
    return found


def _part(folder: Path, users: list[User]) -> Part:
    if not users:
        raise DataError(f"{folder.parent}: LEAF's split has no users")
    names = [name for user in users for name, _ in user]
    return Part(
        _images(folder, names),
        np.array([label for user in users for _, label in user]),
        np.repeat(np.arange(len(users)), [len(user) for user in users]),
    )


def _images(folder: Path, names: list[str]) -> np.ndarray:
    """The images, small. 200,000 JPEGs take minutes, so the result is kept beside them and mapped by all ranks."""
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    kept = folder.parent / f"images-{SIDE}x{SIDE}-{digest}.npy"
    if kept.exists():
        try:
            return np.load(kept, mmap_mode="c", allow_pickle=False)
        except OSError as error:
            raise DataError(f"{kept}: {error.strerror or error}") from error
        except (ValueError, EOFError) as error:
            raise DataError(f"{kept}: {error}; delete it, it is made again from the JPEGs") from error
    images = np.empty((len(names), 3, SIDE, SIDE), np.uint8)
    for i, name in enumerate(names):
        images[i] = _image(folder / name)
    _keep(kept, images)
    return images


def _image(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return _square(image.convert("RGB")).transpose(2, 0, 1)
    except OSError as error:
        raise DataError(f"{path}: not a readable image: {error}") from error


def _square(image: Any) -> np.ndarray:
    """The shorter side to 32 pixels, bilinear, then the middle 32×32: torchvision's Resize and CenterCrop."""
    from PIL.Image import Resampling

    width, height = image.size
    short = min(width, height)
    width, height = SIDE * width // short, SIDE * height // short
    left, top = round((width - SIDE) / 2), round((height - SIDE) / 2)
    small = image.resize((width, height), Resampling.BILINEAR)
    return np.asarray(small.crop((left, top, left + SIDE, top + SIDE)))


def _keep(path: Path, images: np.ndarray) -> None:
    """Write path in one rename; where the folder can't be written, it is done without."""
    with suppress(OSError), outputs.whole(path) as part, open(part, "wb") as file:
        np.save(file, images, allow_pickle=False)
