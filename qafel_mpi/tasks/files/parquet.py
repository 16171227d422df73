"""Parquet: a table with a row an example and a column of clients.

A file, or a folder of train*.parquet and test*.parquet. Columns: `client`; `y`, or `label`; and x, a column of lists
or all the other columns, which are numbers. task.fields names others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qafel_mpi.parsing import visible
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.datasets import Dataset
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.files.parts import Part, dataset, hold_out, stack


def read(path: Path, config: TaskConfig) -> Dataset:
    """Raises DataError naming file and column, and where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"{path}: reading Parquet needs pyarrow; install it with `pip install pyarrow`"
        ) from error
    if path.is_file():
        return dataset(path, config, *hold_out(path, _part(path, config)))
    parts = []
    for name in ("train", "test"):
        files = visible(path, f"{name}*.parquet")
        if not files:
            raise DataError(f"{path}: no {name}*.parquet in it")
        each = [_part(file, config) for file in files]
        parts.append(Part(*(stack(str(path), [getattr(p, f) for p in each]) for f in ("x", "y", "client"))))
    return dataset(path, config, *parts)


def _part(path: Path, config: TaskConfig) -> Part:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {error}") from error
    fields = config.fields
    client = fields.client or "client"
    y = fields.y or next((name for name in ("y", "label") if name in table.column_names), "y")
    x = [fields.x] if fields.x else ["x"] if "x" in table.column_names else []
    x = x or [name for name in table.column_names if name not in (client, y)]
    if missing := [name for name in (client, y, *x) if name not in table.column_names]:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; there are {', '.join(table.column_names)}. "
            "task.fields says which ones are x, y and client"
        )
    if not x or not table.num_rows:
        raise DataError(f"{path}: {table.num_rows} rows, and {len(x)} columns of examples")
    columns = {name: _column(path, table, name) for name in (client, y, *x)}
    return Part(_examples(path, x, columns), columns[y], columns[client])


def _column(path: Path, table: Any, name: str) -> np.ndarray:
    """Numbers or text (n,), or numbers (n, k) where the column has lists of one length."""
    import pyarrow as pa

    column = table.column(name).combine_chunks()
    if column.null_count:
        raise DataError(f"{path}, column {name}: {column.null_count} rows are null")
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = set(pa.compute.list_value_length(column).to_pylist())
        values = column.flatten()
        if len(lengths) != 1 or values.null_count or not _is_number(values.type):
            raise DataError(f"{path}, column {name}: not lists of numbers of one length, without nulls")
        return values.to_numpy(zero_copy_only=False).reshape(len(column), lengths.pop())
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
    if not (
        _is_number(column.type) or pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    ):
        raise DataError(f"{path}, column {name}: {kind} is neither numbers, lists of numbers, nor text")
    found = column.to_numpy(zero_copy_only=False)
    return found.astype(str) if found.dtype == object else found


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _examples(path: Path, names: Sequence[str], columns: dict[str, np.ndarray]) -> np.ndarray:
    for name in names:
        if columns[name].dtype.kind not in "iufb":
            raise DataError(f"{path}, column {name}: text is no feature; task.fields.x says which column is")
    if len(names) == 1 and columns[names[0]].ndim > 1:
        return columns[names[0]]
    if any(columns[name].ndim > 1 for name in names):
        raise DataError(
            f"{path}: columns of lists beside others; task.fields.x says which one has the examples"
        )
    return np.stack([columns[name] for name in names], axis=1).astype(np.float32)
