"""A trace file's tables and attributes, read lazily, in blocks; also of a file that was cut short."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qafel_mpi.hdf5 import CutFile
from qafel_mpi.trace.clock import Clocks
from qafel_mpi.trace.salvage import readable_rows
from qafel_mpi.trace.seal import Seal
from qafel_mpi.trace.shards import TraceError, trace_error
from qafel_mpi.trace_schema import TABLES

BLOCK_ROWS = 262_144  # 30 MB of /messages

# What h5py and numpy raise on bytes that are not what they should be.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)


class Trace:
    """An open trace file. Tables are read when asked for; use as a context manager or call close.

    notes: what is wrong with the file and was worked around, one sentence each; empty where nothing is.
    """

    def __init__(
        self, path: Path, file: h5py.File | None, notes: tuple[str, ...] = (), seal: Seal | None = None
    ):
        self.path = path
        self.notes = notes
        self._file = file
        self._seal = seal

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """The root attributes as Python values."""
        assert self._file is not None
        try:
            return {k: v.item() if isinstance(v, np.generic) else v for k, v in self._file.attrs.items()}
        except DAMAGE as error:
            raise self._wrong(f"damaged, its attributes can't be read: {error}", error) from error

    @cached_property
    def experiment(self) -> dict[str, Any]:
        """The run's experiment, as the nested dictionary of its TOML; {} where the trace does not say."""
        try:
            return tomllib.loads(str(self.attributes.get("experiment", "")))
        except tomllib.TOMLDecodeError as error:
            raise TraceError(f"{self.path}: attribute experiment is not TOML: {error}") from error

    @cached_property
    def all_ranks(self) -> int:
        """How many ranks may have rows: one more than the largest of any start of the run; 0 where that is unknown.

        The attribute `ranks` is that of the last start, which may have had fewer.
        """
        try:
            starts = [self.attributes, *json.loads(self.attributes.get("resumed", "[]"))]
            told = [int(start.get("ranks", 0)) for start in starts]
        except (ValueError, TypeError, AttributeError) as error:
            raise self._wrong(
                f"damaged, its attributes don't say how many ranks it had: {error}", error
            ) from error
        return max(*told, self._largest_of_ranks() + 1)

    def _largest_of_ranks(self) -> int:
        """The largest rank of /ranks; -1 where it has none, or can't be read: messages may be read without."""
        try:
            return int(self.table("ranks", ["rank"])["rank"].max(initial=-1))
        except TraceError:
            return -1

    @cached_property
    def clocks(self) -> Clocks:
        """Every rank's clock against rank 0's, and how far it can be trusted. Raises TraceError."""
        return Clocks(self.table("clock"), float(self.attributes.get("origin_s", 0.0)))

    def rows(self, table: str) -> int:
        """Rows that can be read."""
        return int(self._dataset(table).shape[0])

    def table(self, name: str, columns: list[str] | None = None) -> np.ndarray:
        """A whole table, or some of its columns, as a structured array."""
        blocks = [np.array(block) for block in self.blocks(name, columns)]
        return np.concatenate(blocks) if blocks else np.zeros(0, dtype=_columns(TABLES[name], columns))

    def blocks(
        self, name: str, columns: list[str] | None = None, *, rows: int = BLOCK_ROWS
    ) -> Iterator[np.ndarray]:
        """A table in blocks of `rows`: memory does not grow with its length."""
        data = self._dataset(name)
        for begin in range(0, self.rows(name), rows):
            end = min(begin + rows, self.rows(name))
            self._compare(name, begin * data.dtype.itemsize, end * data.dtype.itemsize)
            try:
                block = conform(data[begin:end], TABLES[name])
            except DAMAGE as error:
                raise self._wrong(f"/{name}, rows {begin} to {end}: {error}", error) from error
            yield block if columns is None else block[columns]

    def verify(self) -> None:
        """Compare every byte of the file with its checksums, where it has some. Raises TraceError."""
        if self._seal is not None:
            self._seal.check_all(self.path)

    def final(self, name: str) -> np.ndarray | None:
        """The final vector x or x_hat, where the run wrote it."""
        data = None if self._file is None else self._file.get(f"final/{name}")
        if data is None:
            return None
        self._compare(f"final/{name}", 0, data.size * data.dtype.itemsize)
        return data[:]

    def digest(self, name: str) -> str:
        """SHA-256 of the final x or x_hat; empty where there is none."""
        try:
            group = None if self._file is None else self._file.get("final")
            return "" if group is None else str(group.attrs.get(f"{name}_digest", ""))
        except DAMAGE as error:
            raise self._wrong(f"damaged, /final can't be read: {error}", error) from error

    def _compare(self, dataset: str, begin: int, end: int) -> None:
        """Compare these bytes of a dataset with their checksums. Raises TraceError."""
        if self._seal is not None:
            self._seal.check_bytes(self.path, dataset, begin, end)

    def _wrong(self, message: str, error: Exception) -> TraceError:
        return trace_error(self.path, f"{self.path}: {message}", error)

    def _dataset(self, name: str) -> h5py.Dataset:
        assert self._file is not None
        try:
            data = self._file.get(name)
            if isinstance(data, h5py.Dataset) and len(data.shape) == 1:
                return data
            present = ", ".join(t for t in TABLES if t in self._file) or "none"
        except DAMAGE as error:
            raise self._wrong(f"damaged, table /{name} can't be read: {error}", error) from error
        raise TraceError(f"{self.path}: has no table /{name}; tables that can be read: {present}")


class CutTrace(Trace):
    """A file that was cut short: the rows before the cut."""

    def __init__(self, path: Path, cut: CutFile, file: h5py.File):
        super().__init__(path, file)
        # Where a table's description was cut off, something else may stand under its name.
        found = {t: file[t] for t in TABLES if t in file and isinstance(file[t], h5py.Dataset)}
        self._readable = {t: readable_rows(data, cut.present_bytes) for t, data in found.items()}
        counts = (f"{rows:,} of {len(found[t]):,} {t}" for t, rows in self._readable.items())
        self.notes = (
            f"{path}: cut short, {cut.present_bytes:,} of {cut.whole_bytes:,} bytes are there; "
            f"readable: {', '.join(counts)}",
        )

    def rows(self, table: str) -> int:
        self._dataset(table)
        return self._readable[table]

    def final(self, name: str) -> np.ndarray | None:
        return None  # a vector is only worth something whole

    def digest(self, name: str) -> str:
        return ""


def conform(block: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Rows in today's columns: those of another schema version that are unknown are left out, those that are
    missing are nan, -1 or empty. Raises TypeError where the rows are no rows at all."""
    if block.dtype == dtype:
        return block
    if block.dtype.names is None:
        raise TypeError("no rows with named columns")
    out = np.zeros(block.shape, dtype=dtype)
    for name in dtype.names or ():
        kind = dtype[name].kind
        if name in block.dtype.names:
            out[name] = block[name]
        elif kind in "if":
            out[name] = np.nan if kind == "f" else -1
    return out


def _columns(dtype: np.dtype, columns: list[str] | None) -> np.dtype:
    return dtype if columns is None else np.dtype([(name, dtype[name]) for name in columns])
