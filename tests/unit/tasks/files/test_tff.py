"""TFF's HDF5: images with labels, text without, and errors that name file, client and field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from qafel_mpi.tasks import DataError
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.files import load


def write(path: Path, clients: dict[str, dict[str, Any]]) -> None:
    with h5py.File(path, "w") as file:
        for client, fields in clients.items():
            for field, values in fields.items():
                file[f"examples/{client}/{field}"] = values


def config(path: Path, **more: Any) -> TaskConfig:
    return TaskConfig.model_validate({"dataset": f"tff:{path}", **more})


def test_emnist_gets_a_channel_and_clients_are_the_groups(tmp_path: Path) -> None:
    pixels = np.zeros((2, 28, 28), np.float32)
    clients = {"f1": {"pixels": pixels, "label": np.array([3, 1], np.int32)}}
    write(tmp_path / "fed_emnist_train.h5", clients | {"f0": {"pixels": pixels[:1] + 1, "label": [2]}})
    write(tmp_path / "fed_emnist_test.h5", clients)
    (tmp_path / "._fed_emnist_test.h5").write_bytes(b"hidden")
    data = load(config(tmp_path), None)
    assert data.x.shape == (3, 1, 28, 28)
    assert data.x[:, 0, 0, 0].tolist() == [1, 0, 0]
    assert data.y.tolist() == [2, 3, 1]
    assert data.classes == 4
    assert data.groups is not None
    assert data.groups.tolist() == [0, 1, 1]


def test_cifar100_has_a_field_to_choose_and_its_channels_come_first(tmp_path: Path) -> None:
    image = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    labels = {"label": [5] * 5, "coarse_label": [1] * 5}
    write(tmp_path / "a.h5", {"0": {"image": image, **labels}})
    with pytest.raises(DataError, match=r"a.h5, examples, 0: fields .*image.*task.fields.x says which"):
        load(config(tmp_path / "a.h5"), None)
    data = load(config(tmp_path / "a.h5", fields={"x": "image", "y": "coarse_label"}), None)
    assert data.x.shape == (4, 3, 2, 2)
    assert np.array_equal(data.x[0, 1], image[0, :, :, 1])
    assert data.y.tolist() == [1] * 4
    assert data.scale == 1 / 127.5


def test_shakespeares_snippets_become_windows_of_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a_train.h5", {"LEAR": {"snippets": [b"abcd", b"efgh"]}})
    write(tmp_path / "a_test.h5", {"LEAR": {"snippets": [b"12345"]}})
    data = load(config(tmp_path, context=4), None)
    assert [bytes(row) for row in data.x] == [b"abcd", b"\nefg"]
    assert [bytes(row) for row in data.y] == [b"bcd\n", b"efgh"]
    assert (data.targets, data.vocabulary, data.bytes_per_token) == ("tokens", 256, 1.0)


@pytest.mark.parametrize(
    ("clients", "message"),
    [
        ({"a": {"x": [[1.0]] * 2, "label": [1]}}, "examples, a: 2 in x and 1 in label"),
        ({"a": {"x": [[1.0]], "label": [1]}, "b": {"x": [[1.0]]}}, "examples, b: no field label"),
        ({"a": {"x": [[1.0]]}}, "examples, a: no field label, and x is no text"),
        (
            {"a": {"x": [[1.0]], "label": [1]}, "b": {"x": [[1.0, 2.0]], "label": [1]}},
            "field x: .* different",
        ),
        ({"a": {"x": [[1j]], "label": [1]}}, "examples, a, x: complex128 is neither numbers nor text"),
        ({}, "no group examples"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, clients: Any, message: str) -> None:
    write(tmp_path / "a.h5", clients)
    with pytest.raises(DataError, match=f"a.h5.*{message}"):
        load(config(tmp_path / "a.h5"), None)


def test_a_file_that_is_no_hdf5_and_a_folder_without_the_two_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"no")
    with pytest.raises(DataError, match=r"a.h5: not an HDF5 file"):
        load(config(tmp_path / "a.h5"), None)
    with pytest.raises(DataError, match=r"0 files \*train\*.h5"):
        load(config(tmp_path), None)
