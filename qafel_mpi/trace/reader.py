"""Reading a trace file back: nothing but h5py and numpy, lazily, in blocks."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qafel_mpi.trace.shards import TraceError
from qafel_mpi.trace_schema import SCHEMA_VERSION, TABLES

__all__ = ["Trace", "TraceError", "open_trace"]


class Trace:
    """An open trace file. Tables are read when asked for; use as a context manager or call close."""

    def __init__(self, path: Path, file: h5py.File):
        self.path = path
        self._file = file

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """The root attributes as Python values."""
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in self._file.attrs.items()}

    @cached_property
    def experiment(self) -> dict[str, Any]:
        """The run's experiment, as the nested dictionary of its TOML."""
        return tomllib.loads(str(self.attributes.get("experiment", "")))

    def rows(self, table: str) -> int:
        return int(self._dataset(table).shape[0])

    def table(self, name: str, columns: list[str] | None = None) -> np.ndarray:
        """A whole table, or some of its columns, as a structured array."""
        data = self._dataset(name)
        try:
            return data[:] if columns is None else data.fields(columns)[:]
        except (OSError, KeyError, ValueError) as error:
            raise TraceError(f"{self.path}: /{name} can't be read: {error}") from error

    def blocks(
        self, name: str, columns: list[str] | None = None, *, rows: int = 262_144
    ) -> Iterator[np.ndarray]:
        """A table in blocks of `rows`: memory does not grow with its length."""
        data = self._dataset(name)
        source = data if columns is None else data.fields(columns)
        for begin in range(0, data.shape[0], rows):
            yield source[begin : begin + rows]

    def final(self, name: str) -> np.ndarray | None:
        """The final vector x or x_hat, where the run wrote it."""
        data = self._file.get(f"final/{name}")
        return None if data is None else data[:]

    def digest(self, name: str) -> str:
        """SHA-256 of the final x or x_hat; empty where there is none."""
        group = self._file.get("final")
        return "" if group is None else str(group.attrs.get(f"{name}_digest", ""))

    def _dataset(self, name: str) -> h5py.Dataset:
        data = self._file.get(name)
        if data is None:
            present = ", ".join(t for t in TABLES if t in self._file) or "none"
            raise TraceError(f"{self.path}: has no table /{name}; tables that can be read: {present}")
        return data


def open_trace(path: str | Path) -> Trace:
    """Open a trace file for reading. Raises TraceError that names the file and what is wrong with it."""
    path = Path(path)
    if not path.exists():
        raise TraceError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise TraceError(
            f"{path}: empty file; the run may have been killed: try qafel-mpi merge on its shards"
        )
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise TraceError(
            f"{path}: not an HDF5 file, or cut short ({str(error).splitlines()[0]}); "
            "if the run's shards are still there, qafel-mpi merge makes it again"
        ) from error
    version = file.attrs.get("schema_version")
    if version is None:
        file.close()
        raise TraceError(f"{path}: an HDF5 file, but not a trace of qafel_mpi (no schema_version)")
    if int(version) > SCHEMA_VERSION:
        file.close()
        raise TraceError(
            f"{path}: schema version {int(version)}, this program reads up to {SCHEMA_VERSION}: update qafel_mpi"
        )
    return Trace(path, file)
