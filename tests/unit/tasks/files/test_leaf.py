"""LEAF's JSON in its three layouts, and what is wrong with a file said by file, user and example."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qafel_mpi.tasks import DataError, build
from qafel_mpi.tasks.config import ClientConfig, TaskConfig
from qafel_mpi.tasks.files import load

TWEET = ["17", "Mon", "NO_QUERY", "ann", "so happy"]


def write(path: Path, users: dict[str, tuple[list[Any], list[Any]]], /, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "users": list(users),
        "num_samples": [len(y) for _, y in users.values()],
        "user_data": {name: {"x": x, "y": y} for name, (x, y) in users.items()},
    }
    path.write_text(json.dumps(content | more))


def config(path: Path, **more: Any) -> TaskConfig:
    return TaskConfig.model_validate({"dataset": f"leaf:{path}", **more})


def test_femnist_images_and_labels_that_are_whole_floats(tmp_path: Path) -> None:
    image = [i / 784 for i in range(784)]
    write(tmp_path / "data/train/a_train_9.json", {"w1": ([image, image], [3.0, 61]), "w0": ([image], [0])})
    write(tmp_path / "data/test/a_test_9.json", {"w1": ([image], [3])})
    (tmp_path / "data/train/._a.json").write_text("left by a copy")
    data = load(config(tmp_path, shape=[1, 28, 28]), None)
    assert data.x.shape == (3, 1, 28, 28)
    assert data.x.dtype == np.float32
    assert data.y.tolist() == [3, 61, 0]
    assert data.classes == 62
    assert data.groups is not None
    assert data.groups.tolist() == [1, 1, 0]
    assert data.test_y is not None
    assert data.test_y.tolist() == [3]


def test_shakespeare_is_text_and_the_character_that_follows(tmp_path: Path) -> None:
    write(tmp_path / "train/a.json", {"LEAR": (["  ab", " abc"], ["c", "é"])})
    write(tmp_path / "test/a.json", {"FOOL": (["wxyz"], ["!"])})
    data = load(config(tmp_path), None)
    assert [bytes(row) for row in data.x] == [b"  ab", b" abc"]
    assert data.y.tolist() == [ord("c"), "é".encode()[0]]
    assert (data.classes, data.vocabulary, data.targets) == (256, 256, "classes")


def test_sent140_is_the_text_of_tweets(tmp_path: Path) -> None:
    longer = [*TWEET[:4], "not at all happy"]
    write(tmp_path / "train/a.json", {"ann": ([TWEET], [1]), "bob": ([longer], [0])})
    write(tmp_path / "test/a.json", {"ann": ([TWEET], [1])})
    data = load(config(tmp_path, context=10), None)
    assert [bytes(row) for row in data.x] == [b"\0\0so happy", b" all happy"]
    assert (data.y.tolist(), data.classes, data.vocabulary) == ([1, 0], 2, 256)


def test_one_file_alone_holds_out_each_users_every_fifth_example(tmp_path: Path) -> None:
    write(tmp_path / "all.json", {"a": ([[float(i)] for i in range(10)], [0] * 10), "b": ([[9.0]], [1])})
    data = load(config(tmp_path / "all.json"), None)
    assert data.test_x is not None
    assert data.test_x[:, 0].tolist() == [4.0, 9.0]
    assert len(data.x) == 9


@pytest.mark.parametrize("model", ["transformer", "mlp"])
def test_a_model_learns_of_it_with_the_users_as_clients(tmp_path: Path, model: str) -> None:
    if model == "transformer":
        write(tmp_path / "a.json", {n: ([TWEET] * 6, [k] * 6) for k, n in enumerate(("ann", "bob"))})
    else:
        write(tmp_path / "a.json", {n: ([[1.0, 2.0]] * 6, [k] * 6) for k, n in enumerate(("ann", "bob"))})
    settings = config(tmp_path / "a.json", model=model, clients=2, depth=1, width=8, heads=2)
    task = build(settings, ClientConfig(local_steps=2), seed=0)
    assert settings.partition.kind == "natural"
    assert [task.examples(client) for client in (0, 1)] == [5, 5]
    start = task.initial(0)
    delta = start.clone()
    task.train(0, start, delta, 0)
    assert delta.any()


@pytest.mark.parametrize(
    ("users", "more", "message"),
    [
        ({"a": ([[1.0]], [0.9])}, {}, "user_data, a: y 0 0.9 is not a whole number"),
        ({"a": ([[1.0]], [-1])}, {}, "user_data, a: y 0 -1 is not at least 0"),
        (
            {"a": ([[1.0], [1.0, 2.0]], [0, 0])},
            {},
            "user_data, a: x 1 has 2 numbers, the examples before it 1",
        ),
        ({"a": ([["1"]], [0])}, {}, "user_data, a: x 0 is not a list of numbers"),
        ({"a": (["ab", [1.0]], ["c", "d"])}, {}, "user_data, a: x 1 is no text"),
        ({"a": (["ab"], ["cd"])}, {}, "user_data, a: y 0 is 'cd', which is not one character"),
        ({"a": ([[1.0]], [])}, {}, "user_data, a: 1 in x, 0 in y, num_samples 0: cut short?"),
        ({"a": ([[1.0]], [1])}, {"num_samples": [2]}, "1 in x, 1 in y, num_samples 2: cut short?"),
        ({"a": ([[1.0]], [1])}, {"users": ["b"]}, "user_data, b: there are no lists x and y"),
        ({"a": ([[1.0]], [1])}, {"users": ["a", "a"], "num_samples": [1, 1]}, "a: the user occurs twice"),
        ({"a": ([[1.0]], [1])}, {"num_samples": []}, "no two lists of one length"),
        ({}, {"user_data": []}, "there is no user_data"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, users: Any, more: Any, message: str) -> None:
    write(tmp_path / "a.json", users, **more)
    with pytest.raises(DataError, match=f"a.json.*{re.escape(message)}"):
        load(config(tmp_path / "a.json"), None)


def test_a_folder_without_the_split_and_a_path_that_is_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no train/\*.json in it"):
        load(config(tmp_path), None)
    with pytest.raises(DataError, match=f"there is no .*nowhere or {tmp_path}/nowhere"):
        load(config(Path("nowhere")), tmp_path)
