"""The recorder of one rank: preallocated rows, appended to its shards on a schedule."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from qafel_mpi.trace.shards import ShardWriter, shard_path
from qafel_mpi.trace_schema import FAULT_NUMBERS, TABLES

_FORMATS = {"u1": "B", "u8": "Q", "i4": "i", "i8": "q", "f8": "d"}


def row_format(dtype: np.dtype) -> struct.Struct:
    """The packed layout of a row for `struct`, which fills one in less time than numpy assigns a tuple."""
    fields = (dtype[name] for name in dtype.names or ())
    codes = (f"{f.itemsize}s" if f.kind == "S" else _FORMATS[f.str[1:]] for f in fields)
    return struct.Struct("<" + "".join(codes))


class Table:
    """Rows of one table, in memory until they are full or due."""

    def __init__(self, name: str, directory: Path, rank: int, capacity: int, flush_seconds: float):
        dtype = TABLES[name]
        self.rows = np.zeros(capacity, dtype=dtype)
        self.total = 0  # rows that are on disk
        self.flush_seconds = flush_seconds
        self._due_s = perf_counter() + flush_seconds
        self.name, self.kept = name, True
        self._writer = ShardWriter(shard_path(directory, name, rank))
        self._pack = row_format(dtype).pack_into
        self._bytes = self.rows.view(np.uint8).data
        self._row_bytes = dtype.itemsize
        self._end = self.rows.nbytes
        self._at = 0  # where the next row goes, in bytes

    @property
    def filled(self) -> int:
        """Rows in memory."""
        return self._at // self._row_bytes

    def append(self, row: tuple[Any, ...]) -> None:
        """Record one row: its values in the order of the schema's columns. Raises TraceError where a full table
        can't be written; then its rows stay in memory, and this one is not taken."""
        if self._at == self._end:
            self.flush()
        self._pack(self._bytes, self._at, *row)
        self._at += self._row_bytes

    def extend(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """`append` each."""
        for row in rows:
            self.append(row)

    def replace(self, row: tuple[Any, ...]) -> None:
        """Make this the table's only row, on disk at once. Raises TraceError."""
        self._at = self.total = 0
        self.append(row)
        if self.kept:
            self._writer.replace(self.rows[:1])
        self._at, self.total = 0, 1

    def flush_if_due(self, now_s: float) -> None:
        if self._at and now_s >= self._due_s:
            self.flush()

    def flush(self) -> None:
        """Append what is in memory to the shard. Raises TraceError."""
        if filled := self.filled:
            if self.kept:
                self._writer.append(self.rows[:filled])
            self.total += filled
            self._at = 0
        self._due_s = perf_counter() + self.flush_seconds

    def close(self) -> None:
        self.flush()
        self._writer.close()


class Recorder:
    """All tables of one rank. What was flushed survives a kill -9; call `flush_if_due` from the rank's loop.

    directory: the run's folder of shards, made with the first rows that are written. capacity: rows in
    memory per table.
    """

    def __init__(self, directory: Path, rank: int, *, capacity: int = 4096, flush_seconds: float = 1.0):
        self.directory, self.rank = directory, rank
        self.messages = Table("messages", directory, rank, capacity, flush_seconds)
        self.updates = Table("updates", directory, rank, capacity, flush_seconds)
        self.steps = Table("steps", directory, rank, capacity, flush_seconds)
        self.ranks = Table("ranks", directory, rank, 64, flush_seconds)
        self.clock = Table("clock", directory, rank, 64, flush_seconds)
        self.encodings = Table("encodings", directory, rank, capacity, flush_seconds)
        self.memory = Table("memory", directory, rank, 64, flush_seconds)
        self.faults = Table("faults", directory, rank, 64, flush_seconds)
        self._tables = (
            self.messages,
            self.updates,
            self.steps,
            self.ranks,
            self.clock,
            self.encodings,
            self.memory,
            self.faults,
        )

    def fault(
        self,
        kind: str,
        *,
        rank: int,
        host: str = "",
        client: int = -1,
        version: int = -1,
        in_flight: int = 0,
        detail: str = "",
    ) -> None:
        """A row of /faults, noticed now. kind: one of FAULT_NAMES; the rest as the schema's columns say.

        Session.fault is the same with the host filled in.
        """
        words = detail.encode(errors="backslashreplace")
        self.faults.append(
            (
                perf_counter(), FAULT_NUMBERS[kind], self.rank, rank, host.encode(errors="backslashreplace"),
                client, version, in_flight, words,
            )
        )  # fmt: skip

    @property
    def rows(self) -> int:
        """Rows recorded so far, on disk or in memory, in all tables but /ranks."""
        return sum(
            table.total + table.filled for table in self._tables if table.kept and table is not self.ranks
        )

    def keep_only(self, names: Collection[str]) -> None:
        """Let the rows of all other tables fall: of a replay, whose messages are not the run's."""
        for table in self._tables:
            table.kept = table.name in names

    def flush_if_due(self) -> None:
        now_s = perf_counter()
        for table in self._tables:
            table.flush_if_due(now_s)

    def flush(self) -> None:
        for table in self._tables:
            table.flush()

    def close(self) -> None:
        for table in self._tables:
            table.close()
