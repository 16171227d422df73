"""Parquet: columns of numbers or of lists, a column of clients, and errors that name file and column."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qafel_mpi.tasks import DataError
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.files import load

TABLE = {
    "age": [1, 2, 3, 4, 5, 6],
    "size": [0.5] * 6,
    "label": [0, 1, 2, 0, 1, 2],
    "client": ["a"] * 5 + ["b"],
}


def read(path: Path, table: dict[str, Any], **settings: Any) -> Any:
    pq.write_table(pa.table(table), path / "a.parquet")
    return load(TaskConfig.model_validate({"dataset": f"parquet:{path}/a.parquet", **settings}), None)


def test_columns_of_numbers_are_features(tmp_path: Path) -> None:
    data = read(tmp_path, TABLE)
    assert data.x.tolist() == [[1, 0.5], [2, 0.5], [3, 0.5], [4, 0.5], [6, 0.5]]
    assert data.test_x.tolist() == [[5, 0.5]]
    assert (data.y.tolist(), data.groups.tolist()) == ([0, 1, 2, 0, 2], [0, 0, 0, 0, 1])


def test_a_column_of_lists_is_the_examples_and_fields_name_the_others(tmp_path: Path) -> None:
    table = {"pixels": [[1.0, 2.0]] * 5, "size": [0.5] * 5, "writer": [7] * 5}
    data = read(tmp_path, table, fields={"x": "pixels", "y": "size", "client": "writer"})
    assert data.x.shape == (4, 2)
    assert data.targets == "values"


def test_a_folder_has_a_training_and_a_test_part_of_several_files(tmp_path: Path) -> None:
    for name in ("train-0", "train-1", "test-0"):
        pq.write_table(pa.table(TABLE), tmp_path / f"{name}.parquet")
        (tmp_path / f"._{name}.parquet").write_bytes(b"hidden")
    data = load(TaskConfig(dataset=f"parquet:{tmp_path}"), None)
    assert len(data.x) == 12
    assert data.test_x is not None
    assert len(data.test_x) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"client": [None] * 6}, "column client: 6 rows are null"),
        ({"age": ["old"] * 6}, "column age: text is no feature"),
        ({"x": [[1.0]] * 5 + [[1.0, 2.0]]}, "column x: not lists of numbers of one length"),
        ({"x": [b"raw"] * 6}, "column x: binary is neither"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"a.parquet, {message}"):
        read(tmp_path, TABLE | change)


def test_a_missing_column_and_a_file_of_another_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column user; there are age, size, label, client"):
        read(tmp_path, TABLE, fields={"client": "user"})
    (tmp_path / "b.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match=r"b.parquet: not a Parquet file"):
        load(TaskConfig(dataset=f"parquet:{tmp_path}/b.parquet"), None)


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **more)

    pq.write_table(pa.table(TABLE), tmp_path / "a.parquet")
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(DataError, match="needs pyarrow; install it"):
        load(TaskConfig(dataset=f"parquet:{tmp_path}/a.parquet"), None)
