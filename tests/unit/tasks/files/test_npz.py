""".npz: every kind of target by its type, a test part or one held out, and never a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qafel_mpi.tasks import DataError
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.files import load

X = np.arange(20, dtype=np.float32).reshape(10, 2)
CLIENT = np.array(["b"] * 5 + ["a"] * 5)


def read(path: Path, **arrays: Any) -> Any:
    settings = arrays.pop("settings", {})
    np.savez(path / "a.npz", **arrays)
    return load(TaskConfig.model_validate({"dataset": f"npz:{path}/a.npz", **settings}), None)


def test_classes_and_clients_and_every_fifth_example_held_out(tmp_path: Path) -> None:
    data = read(tmp_path, x=X, y=np.arange(10) % 3, client=CLIENT)
    assert data.test_x[:, 0].tolist() == [8, 18]
    assert data.groups.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert (data.targets, data.classes) == ("classes", 3)


def test_a_test_part_and_names_of_ones_own(tmp_path: Path) -> None:
    arrays = {"images": X, "digit": np.zeros(10, int), "writer": CLIENT, "test_x": X[:1], "test_y": [1]}
    data = read(tmp_path, **arrays, settings={"fields": {"x": "images", "y": "digit", "client": "writer"}})
    assert (len(data.x), len(data.test_x)) == (10, 1)


@pytest.mark.parametrize(
    ("x", "y", "kind", "classes", "vocabulary"),
    [
        (X, X[:, 0], "values", 1, None),
        (X, X, "values", 2, None),
        (X, np.eye(10, 4, dtype=bool), "labels", 4, None),
        (X.astype(int), X.astype(int) + 1, "tokens", 21, 21),
        (X.astype(int), np.arange(10), "classes", 10, 20),
    ],
)
def test_the_types_tell_the_targets(
    tmp_path: Path, x: Any, y: Any, kind: Any, classes: Any, vocabulary: Any
) -> None:
    data = read(tmp_path, x=x, y=y, client=CLIENT)
    assert (data.targets, data.classes, data.vocabulary) == (kind, classes, vocabulary)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X, "y": X[:, 0]}, "no array client; there are x, y"),
        ({"x": X, "y": X[:9, 0], "client": CLIENT}, "10 in x, 9 in y, 10 in client"),
        (
            {"x": X, "y": X[:, 0], "client": np.array(["a", 1] * 5, object)},
            "array client: .*allow_pickle=False",
        ),
        ({"x": X, "y": X[:, 0], "client": CLIENT, "test_x": X}, "test_x and test_y go together"),
        ({"x": X * np.nan, "y": X[:, 0], "client": CLIENT}, "training part: example 0, feature 0 is nan"),
        ({"x": X[:3], "y": X[:3, 0], "client": CLIENT[:3]}, "no client has the 5 examples"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, arrays: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"a.npz.*{message}"):
        read(tmp_path, **arrays)


def test_a_cut_file_and_a_name_without_path_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DataError, match=r"not an .npz that can be read"):
        load(TaskConfig(dataset=f"npz:{tmp_path}/a.npz"), None)
    with pytest.raises(ValueError, match="'npz:' has no path; write npz:PATH"):
        TaskConfig(dataset="npz:")


@pytest.mark.parametrize("x", [X, X.astype(int)], ids=["floats", "tokens"])
@pytest.mark.parametrize("rows", ["none", "no array"])
def test_a_test_part_without_examples_is_refused(tmp_path: Path, x: Any, rows: str) -> None:
    test_x, test_y = (x[:0], x[:0, 0]) if rows == "none" else (np.array(1.0), np.array(1.0))
    with pytest.raises(DataError, match="test part: 0 examples and 0 labels"):
        read(tmp_path, x=x, y=x[:, 0], client=CLIENT, test_x=test_x, test_y=test_y)
