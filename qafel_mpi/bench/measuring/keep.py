"""A benchmark's files while it runs: what was measured so far is in them, whatever happens next.

A rank that dies or a signal that finds rank 0 inside MPI leaves no time to write: rows are written as they come.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from qafel_mpi.bench.measuring.result import Result, ResultError, Row, read
from qafel_mpi.config_text import ConfigError
from qafel_mpi.hdf5 import is_hdf5
from qafel_mpi.outputs import in_the_way, part_of

if TYPE_CHECKING:
    from collections.abc import Iterator

STILL_RUNNING = "written while the benchmark ran, which did not end"
SHARE = 0.05  # of the time that writing may take: files grow, and all of a file is written each time


def refuse_unwritable(json: Path | None, out: Path | None) -> None:
    """Raise ConfigError for a path that no result can be written to. Makes missing folders.

    json, out: the result as JSON and as HDF5. Neither replaces a trace.
    """
    if json is not None and (why := in_the_way(json)):
        raise ConfigError([f"--json {why}"])
    if out is not None and is_hdf5(out):
        try:
            read(out)
        except ResultError:
            raise ConfigError(
                [f"--out {out}: holds something other than a result; take another name"]
            ) from None
    for path in (path for path in (json, out) if path is not None):
        try:
            if path.is_dir():
                raise IsADirectoryError(0, "is a folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            if part_of(path) != path:
                part_of(path).touch()
                part_of(path).unlink()
        except OSError as error:
            raise ConfigError([f"{path}: can't be written: {error.strerror or error}"]) from None


def load() -> list[float]:
    """Processes that want a core of this host, means over 1, 5 and 15 minutes; ours among them. []: unknown."""
    try:
        return list(os.getloadavg())
    except (OSError, AttributeError):  # not on every system
        return []


class Keeper:
    """Rows, and the files that hold them."""

    def __init__(self, bench: str, provenance: Mapping[str, Any], json: Path | None, out: Path | None):
        self.bench, self.provenance = bench, dict(provenance)
        self.json, self.out = json, out
        self.rows: list[Row] = []
        self._written_s, self._cost_s = float("-inf"), 0.0

    def add(self, row: Row) -> None:
        """Keep a row; on the disk at once, or where that would cost more than SHARE, with a later one."""
        self.rows.append(row)
        if perf_counter() - self._written_s > self._cost_s / SHARE:
            self._write(STILL_RUNNING)

    @contextmanager
    def until_the_end(self) -> Iterator[None]:
        """All rows are in the files at its end, marked as incomplete where that is an exception."""
        try:
            yield
        except BaseException as error:
            if self.rows:  # else an older file of this name is worth more
                self._write(f"{type(error).__name__}: {error}".removesuffix(": "))
            raise
        self._write("")

    def result(self, incomplete: str = "") -> Result:
        about = self.provenance | {"load": {**self.provenance.get("load", {}), "end": load()}}
        return Result(self.bench, self.rows, about, incomplete)

    def _write(self, incomplete: str) -> None:
        begun_s = perf_counter()
        if self.json is not None:
            self.result(incomplete).write_json(self.json)
        if self.out is not None:
            self.result(incomplete).write_hdf5(self.out)
        self._written_s = perf_counter()
        self._cost_s = self._written_s - begun_s
