"""LEAF's JSON (Caldas et al. 2018): users, num_samples, and user_data[user] = {"x": […], "y": […]}.

A folder has train/*.json and test/*.json, itself or in its folder `data`, as LEAF leaves them; of one file alone each
user's every fifth example tests. What x holds tells the layout:

    numbers      FEMNIST, synthetic: an example is a list of floats, y a class
    text         Shakespeare: an example is a string, y the character that follows
    tweets       Sent140: an example is [id, date, query, user, text], y a class

Text becomes bytes (UTF-8), its last ones, with zeros before a shorter one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qafel_mpi.parsing import Place, read_json, visible, whole
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.datasets import MOST_CLASSES, Dataset
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.files.parts import Part, dataset, hold_out
from qafel_mpi.tasks.text import VOCABULARY

MOST_BYTES = 256  # of a text, where task.context does not say
TWEET_FIELDS, TWEET_TEXT = 5, 4

User = tuple[Place, list[Any], list[Any]]


def read(path: Path, config: TaskConfig) -> Dataset:
    """Raises DataError naming file, user and example."""
    if path.is_file():
        users = _users([path])
        length = _length(users, config)
        train, test = hold_out(path, _part(users, length))
    else:
        parts = [_users(_files(path, name)) for name in ("train", "test")]
        users = parts[0] | {f"test {name}": user for name, user in parts[1].items()}
        length = _length(users, config)
        train, test = (_part(part, length) for part in parts)
    text: dict[str, Any] = {} if length is None else {"vocabulary": VOCABULARY}
    if any(isinstance(y[0], str) for _, _, y in users.values() if y):
        text["classes"] = VOCABULARY
    return dataset(path, config, train, test, **text)


def _files(root: Path, name: str) -> list[Path]:
    """The files of one half of the split."""
    for folder in (root / name, root / "data" / name):
        if found := visible(folder, "*.json"):
            return found
    raise DataError(f"{root}: no {name}/*.json in it, nor in its folder data")


def _users(files: Sequence[Path]) -> dict[str, User]:
    users: dict[str, User] = {}
    for path in files:
        content, place = read_json(path), Place(path)
        if not isinstance(content, dict) or not isinstance(content.get("user_data"), dict):
            raise place.error("not LEAF's JSON: there is no user_data")
        names = content.get("users", list(content["user_data"]))
        counts = content.get("num_samples", [None] * (len(names) if isinstance(names, list) else 0))
        if not isinstance(names, list) or not isinstance(counts, list) or len(names) != len(counts):
            raise place.error("users and num_samples are no two lists of one length")
        if wrong := [name for name in names if not isinstance(name, str)]:
            raise place.error(f"users has {wrong[0]!r}, which is no name")
        for name, count in zip(names, counts, strict=True):
            if name in users:
                raise place.at("user_data", name).error("the user occurs twice in this part of the split")
            users[name] = _user(place, content["user_data"], name, count)
    if not users:
        raise DataError(f"{files[0]}: no users")
    return users


def _user(place: Place, data: dict[str, Any], name: str, count: Any) -> User:
    place = place.at("user_data", name)
    entry = data.get(name)
    x, y = (entry.get("x"), entry.get("y")) if isinstance(entry, dict) else (None, None)
    if not isinstance(x, list) or not isinstance(y, list):
        raise place.error("there are no lists x and y")
    if len(x) != len(y) or count not in (None, len(y)):
        raise place.error(f"{len(x)} in x, {len(y)} in y, num_samples {count}: cut short?")
    return place, x, y


def _text_of(x: Any) -> str | None:
    """An example's text, if it has one."""
    if isinstance(x, str):
        return x
    if isinstance(x, list) and len(x) == TWEET_FIELDS and isinstance(x[TWEET_TEXT], str):
        return x[TWEET_TEXT]
    return None


def _length(users: dict[str, User], config: TaskConfig) -> int | None:
    """Bytes of an example; None: examples are numbers."""
    first = next((x[0] for _, x, _ in users.values() if x), None)
    if first is None:
        raise DataError("LEAF's JSON: no user has an example")
    if _text_of(first) is None:
        return None
    if config.context is not None:
        return config.context
    longest = max(len((_text_of(x) or "").encode()) for _, xs, _ in users.values() for x in xs)
    return max(1, min(MOST_BYTES, longest))


def _part(users: dict[str, User], length: int | None) -> Part:
    xs, ys, names = [], [], []
    width = None
    for name, (place, x, y) in users.items():
        for i, (example, label) in enumerate(zip(x, y, strict=True)):
            if length is None:
                xs.append(_numbers(place, i, example, width))
                width = len(xs[0])
            else:
                xs.append(_bytes(place, i, example, length))
            ys.append(_label(place, i, label))
            names.append(name)
    if not xs:
        raise DataError("LEAF's JSON: a part of the split has no examples")
    return Part(np.stack(xs), np.array(ys), np.array(names))


def _numbers(place: Place, i: int, example: Any, width: int | None) -> np.ndarray:
    numbers = [example] if isinstance(example, int | float) else example
    if not isinstance(numbers, list) or not all(type(value) in (int, float) for value in numbers):
        raise place.error(f"x {i} is not a list of numbers")
    if width is not None and len(numbers) != width:
        raise place.error(f"x {i} has {len(numbers)} numbers, the examples before it {width}")
    try:
        return np.array(numbers, np.float32)
    except OverflowError:
        raise place.error(f"x {i} has a number that float32 can't hold") from None


def _bytes(place: Place, i: int, example: Any, length: int) -> np.ndarray:
    text = _text_of(example)
    if text is None:
        raise place.error(f"x {i} is no text, as the examples before it are")
    kept = text.encode(errors="replace")[-length:]
    return np.frombuffer(kept.rjust(length, b"\0"), np.uint8)


def _label(place: Place, i: int, label: Any) -> int:
    """A class, or the first byte of the character that follows."""
    if isinstance(label, str):
        if len(label) != 1:
            raise place.error(f"y {i} is {label!r}, which is not one character")
        return label.encode(errors="replace")[0]
    value = whole(label, place, f"y {i}", least=0)
    if value >= MOST_CLASSES:
        raise place.error(f"y {i} is {value:.4g}; at most {MOST_CLASSES:,} classes")
    return value
