"""Shards: append-only files of consecutive .npy blocks, one file per rank and table.

A block is what numpy.lib.format writes: self-describing, no pickle. A process killed while it writes leaves a
torn last block, which a reader cuts off; everything before it is whole.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import numpy as np

# What numpy's reader raises on bytes that are no whole block, whatever they are.
_NO_BLOCK = (ValueError, EOFError, OSError, SyntaxError, TokenError, KeyError, TypeError)


class TraceError(Exception):
    """A trace, or a part of one, that cannot be written or read; the message names the file."""


class UnavailableError(TraceError):
    """A trace that can't be opened or read now: busy, forbidden, or its disk does not answer.

    It says nothing about what is in the file, which therefore must not be replaced.
    """


# The operating system reports these when a damaged file leads the reader to a place that is none.
_OF_DAMAGE = (errno.EINVAL, errno.EOVERFLOW, errno.EFBIG)
_REMEDIES = {
    errno.EAGAIN: "another program has it open for writing; close it there",
    errno.EACCES: "you have no permission to read it",
    errno.EPERM: "you have no permission to read it",
}


def trace_error(path: Path, message: str, error: BaseException) -> TraceError:
    """What an error at reading means: UnavailableError where the operating system gave it, else TraceError.

    message: what is said of a file that is damaged.
    """
    if isinstance(error, OSError) and error.errno is not None and error.errno not in _OF_DAMAGE:
        remedy = _REMEDIES.get(error.errno, "it may be readable later")
        return UnavailableError(f"{path}: can't be read now ({os.strerror(error.errno)}): {remedy}")
    return TraceError(message)


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

        Raises TraceError naming the file where the disk is full or the folder not writable. What was written of
        this block is cut off again, so that a later block, when there is room, is not hidden behind a torn one.
        """
        data = _block(rows)
        written = 0
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError as error:
            with suppress(OSError):
                if self._file is not None and written:
                    os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise TraceError(f"{self.path}: {error.strerror}; rows flushed before are kept") from error

    def replace(self, rows: np.ndarray) -> None:
        """Make these rows all that the file holds; a kill leaves the old ones or these. Raises TraceError."""
        self.close()
        new = self.path.with_suffix(".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(_block(rows))
            os.replace(new, self.path)
        except OSError as error:
            raise TraceError(f"{self.path}: {error.strerror}") from error

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _block(rows: np.ndarray) -> memoryview:
    block = io.BytesIO()
    np.lib.format.write_array(block, np.ascontiguousarray(rows), allow_pickle=False)
    return block.getbuffer()


def read_blocks(path: Path) -> Iterator[np.ndarray]:
    """The whole blocks of a shard, in order; stops silently at a torn last one (see `scan`)."""
    return (block for _, block in blocks_from(path, 0))


def blocks_from(path: Path, begin: int) -> Iterator[tuple[int, np.ndarray]]:
    """The whole blocks from byte `begin` on, each with the position of its end: there a later call goes on."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(begin)
        while file.tell() < size:
            try:
                block = np.lib.format.read_array(file, allow_pickle=False)
            except _NO_BLOCK as error:
                _torn(path, error)
                return
            yield file.tell(), block


@dataclass(frozen=True)
class Scan:
    """What a shard holds: rows in whole blocks, and bytes after them that belong to none."""

    rows: int
    torn_bytes: int


def scan(path: Path) -> Scan:
    """Count a shard's rows from the blocks' headers alone."""
    rows = end = 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while end < size:
            try:
                count, block_bytes = _block_header(file)
            except _NO_BLOCK as error:
                _torn(path, error)
                break
            if file.tell() + block_bytes > size:
                break
            rows += count
            end = file.seek(block_bytes, os.SEEK_CUR)
    return Scan(rows, size - end)


def _torn(path: Path, error: Exception) -> None:
    """Bytes that are no block are where a kill cut the shard off; an error of the disk says nothing of the kind."""
    if isinstance(found := trace_error(path, "", error), UnavailableError):
        raise found from error


def _block_header(file: BinaryIO) -> tuple[int, int]:
    """(rows, bytes of them) of the block that begins here; the file is left at its first row."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    (rows,), _, dtype = read(file)
    return rows, rows * dtype.itemsize
