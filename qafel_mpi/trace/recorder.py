"""The recorder of one rank: preallocated rows, appended to its shards on a schedule."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from qafel_mpi.trace.shards import ShardWriter, TraceError, scan, shard_path
from qafel_mpi.trace_schema import FAULT_NUMBERS, OWN_TIMES, TABLES

OnError = Callable[[TraceError, int], None]  # with how many rows are lost; it raises the error, or returns
_FORMATS = {"u1": "B", "u8": "Q", "i4": "i", "i8": "q", "f8": "d"}


def row_format(dtype: np.dtype) -> struct.Struct:
    """The packed layout of a row for `struct`, which fills one in less time than numpy assigns a tuple."""
    fields = (dtype[name] for name in dtype.names or ())
    codes = (f"{f.itemsize}s" if f.kind == "S" else _FORMATS[f.str[1:]] for f in fields)
    return struct.Struct("<" + "".join(codes))


def stop(error: TraceError, rows: int) -> None:
    """The OnError of a recorder whose rows must all be written."""
    raise error


class Table:
    """Rows of one table, in memory until they are full or due."""

    def __init__(
        self, name: str, directory: Path, rank: int, capacity: int, flush_seconds: float, on_error: OnError
    ):
        dtype = TABLES[name]
        self.rows = np.zeros(capacity, dtype=dtype)
        self.total = 0  # rows that are on disk, or that the disk refused
        self.on_error = on_error
        self.flush_seconds = flush_seconds
        self._due_s = perf_counter() + flush_seconds
        self.name, self.kept = name, True
        self._writer = ShardWriter(shard_path(directory, name, rank))
        self._pack = row_format(dtype).pack_into
        self._bytes = self.rows.view(np.uint8).data
        self._row_bytes = dtype.itemsize
        self._end = self.rows.nbytes
        self._at = 0  # where the next row goes, in bytes
        self._shift_s, self._own_times = 0.0, OWN_TIMES.get(name, ())

    @property
    def filled(self) -> int:
        """Rows in memory."""
        return self._at // self._row_bytes

    def append(self, row: tuple[Any, ...]) -> None:
        """Record one row: its values in the order of the schema's columns. Raises TraceError where a full table
        can't be written and on_error raises it; then its rows stay in memory, and this one is not taken."""
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
        self._write(self._writer.replace, 1)
        self._at, self.total = 0, 1

    def flush_if_due(self, now_s: float) -> None:
        if self._at and now_s >= self._due_s:
            self.flush()

    def flush(self) -> None:
        """Append what is in memory to the shard. Raises TraceError."""
        if filled := self.filled:
            self._write(self._writer.append, filled)
            self.total += filled
            self._at = 0
        self._due_s = perf_counter() + self.flush_seconds

    def go_on(self, shift_s: float = 0.0) -> None:
        """Append to the rows that the shard has already, of the run that is resumed. shift_s: see Recorder.go_on."""
        path = self._writer.path
        self.total = scan(path).rows if path.exists() else 0
        self._shift_s = shift_s

    def _shifted(self, rows: np.ndarray) -> np.ndarray:
        shifted = rows.copy()  # where they can't be written, they stay as they are
        for name in self._own_times:
            shifted[name] += self._shift_s
        return shifted

    @property
    def position(self) -> int:
        """Bytes of the shard: what is in memory lies behind."""
        path = self._writer.path
        return path.stat().st_size if path.exists() else 0

    def close(self) -> None:
        self.flush()
        self._writer.close()

    def _write(self, write: Callable[[np.ndarray], None], rows: int) -> None:
        if not self.kept:
            return
        try:
            write(self._shifted(self.rows[:rows]) if self._shift_s and self._own_times else self.rows[:rows])
        except TraceError as error:
            self.on_error(error, rows)


class Recorder:
    """All tables of one rank. What was flushed survives a kill -9; call `flush_if_due` from the rank's loop.

    directory: the run's folder of shards, made with the first rows that are written. capacity: rows in
    memory per table. on_error: called with what the disk refused.
    """

    def __init__(
        self,
        directory: Path,
        rank: int,
        *,
        capacity: int = 4096,
        flush_seconds: float = 1.0,
        on_error: OnError = stop,
    ):
        self.directory, self.rank = directory, rank

        def table(name: str, rows: int = capacity) -> Table:
            return Table(name, directory, rank, rows, flush_seconds, on_error)

        self.messages = table("messages")
        self.updates = table("updates")
        self.steps = table("steps")
        self.ranks = table("ranks", 64)
        self.clock = table("clock", 64)
        self.encodings = table("encodings")
        self.memory = table("memory", 64)
        self.faults = table("faults", 64)
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
        """Rows recorded so far, on disk, in memory or refused by the disk, in all tables but /ranks."""
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

    def positions(self) -> np.ndarray:
        """Flush, and tell the bytes of each shard: (len(TABLES),) int64, in TABLES' order. Raises TraceError."""
        self.flush()
        return np.array([getattr(self, name).position for name in TABLES], dtype=np.int64)

    def go_on(self, shift_s: float) -> None:
        """Of a run that is resumed: append to what the shards hold already.

        shift_s: from this process's clock to the one that the times in the rows there are of.
        """
        for table in self._tables:
            table.go_on(shift_s)

    def close(self) -> None:
        for table in self._tables:
            table.close()
