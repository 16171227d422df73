"""Shards: append-only files of consecutive .npy blocks, one file per rank and table.

A block is what numpy.lib.format writes: self-describing, no pickle. A process killed while it writes leaves a
torn last block, which a reader cuts off; everything before it is whole.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np


class TraceError(Exception):
    """A trace, or a part of one, that cannot be written or read; the message names the file."""


def shard_path(directory: Path, table: str, rank: int) -> Path:
    return directory / f"{table}.{rank:06d}.npys"


def shard_ranks(directory: Path, table: str) -> list[int]:
    """The ranks that have a shard of this table."""
    return sorted(int(p.name.split(".")[1]) for p in directory.glob(f"{table}.*.npys"))


class ShardWriter:
    """Appends blocks of rows to one file, which it makes at the first block."""

    def __init__(self, path: Path):
        self.path = path
        self._file: int | None = None

    def append(self, rows: np.ndarray) -> None:
        """Write the rows as one block, in one system call where the file system allows.

        Raises TraceError naming the file where the disk is full or the folder not writable.
        """
        block = io.BytesIO()
        np.lib.format.write_array(block, np.ascontiguousarray(rows), allow_pickle=False)
        data = block.getbuffer()
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError as error:
            raise TraceError(f"{self.path}: {error.strerror}; rows flushed before are kept") from error

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read_blocks(path: Path) -> Iterator[np.ndarray]:
    """The whole blocks of a shard, in order; stops silently at a torn last one (see `torn_bytes`)."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while file.tell() < size:
            try:
                yield np.lib.format.read_array(file, allow_pickle=False)
            except (ValueError, EOFError, OSError):
                return


def torn_bytes(path: Path) -> int:
    """Bytes at the end of a shard that belong to no whole block."""
    whole = 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while file.tell() < size:
            try:
                np.lib.format.read_array(file, allow_pickle=False)
            except (ValueError, EOFError, OSError):
                break
            whole = file.tell()
    return size - whole
