"""Shards: append-only files of consecutive blocks of rows, one file per rank and table.

A block is a head of 28 bytes (magic, size and number of its rows, their CRC-32C, and the head's own) and what
numpy.lib.format writes: self-describing, no pickle. A process killed while it writes leaves a torn last block, which
a reader cuts off; everything before it is whole. A block that a bad disk has changed is found by its checksum and
left out, and the reader goes on at the next head: one wrong byte costs one block.
"""

from __future__ import annotations

import errno
import io
import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from fastcrc import crc32


class TraceError(Exception):
    """A trace, or a part of one, that cannot be written or read; the message names the file."""


class UnavailableError(TraceError):
    """A trace that can't be opened or read now: busy, forbidden, or its disk does not answer.

    It says nothing about what is in the file, which therefore must not be replaced.
    """


_RANK = re.compile("[0-9]{6,9}")
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
    """The ranks that have a shard of this table. Files of other names are not ours."""
    numbers = (path.name.split(".")[1] for path in directory.glob(f"{table}.*.npys"))
    return sorted({int(n) for n in numbers if _RANK.fullmatch(n)})


class ShardWriter:
    """Appends blocks of rows to one file, which it makes at the first block."""

    def __init__(self, path: Path):
        self.path = path
        self._file: int | None = None

    def append(self, rows: np.ndarray) -> None:
        """Write the rows as one block, in one system call where the file system allows.

        Raises TraceError naming the file where the disk is full, the folder not writable, or the file no longer
        there. What was written of this block is cut off again, so that a later block, when there is room, is not
        hidden behind a torn one.
        """
        data = _block(rows)
        written = 0
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            elif not os.fstat(self._file).st_nlink:
                self.close()  # the next block begins a new file
                raise OSError(errno.ENOENT, "it was removed while the run was writing to it")
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError as error:
            with suppress(OSError):
                if self._file is not None and written:
                    os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            kept = "" if error.errno == errno.ENOENT else "; rows flushed before are kept"
            raise TraceError(f"{self.path}: {error.strerror}{kept}") from error

    def replace(self, rows: np.ndarray, *, sync: bool = False) -> None:
        """Make these rows all that the file holds; a kill leaves the old ones or these.

        sync: on the disk when it returns, so that a power cut does too. Raises TraceError.
        """
        self.close()
        new = self.path.with_suffix(".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with new.open("wb") as file:
                file.write(_block(rows))
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(new, self.path)
        except OSError as error:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise TraceError(f"{self.path}: {error.strerror}") from error

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


_MAGIC = b"QSB1"
_HEAD = struct.Struct("<4sQQI")  # magic, bytes of the body, its rows, its CRC-32C; then the CRC-32C of these
_CHECK = struct.Struct("<I")
_HEAD_BYTES = _HEAD.size + _CHECK.size
_SEARCH_BYTES = 1 << 20


def _block(rows: np.ndarray) -> memoryview:
    block = io.BytesIO(bytes(_HEAD_BYTES))
    block.seek(_HEAD_BYTES)
    np.lib.format.write_array(block, np.ascontiguousarray(rows), allow_pickle=False)
    whole = block.getbuffer()
    body = whole[_HEAD_BYTES:]
    _HEAD.pack_into(whole, 0, _MAGIC, len(body), len(rows), crc32.iscsi(body))
    _CHECK.pack_into(whole, _HEAD.size, crc32.iscsi(whole[: _HEAD.size]))
    return whole


@dataclass(frozen=True)
class Piece:
    """A stretch of a shard. rows: None where it is damaged, and then why says how."""

    begin: int
    end: int
    rows: int | None
    why: str = ""

    def __str__(self) -> str:
        return f"bytes {self.begin:,} to {self.end:,} ({self.why})"


@dataclass(frozen=True)
class Scan:
    """What a shard holds: rows in good blocks, damaged pieces, and bytes at the end that belong to no block."""

    rows: int
    torn_bytes: int
    bad: tuple[Piece, ...] = ()


def read_blocks(path: Path) -> Iterator[np.ndarray]:
    """The good blocks of a shard, in order; what is left out is in its `scan`."""
    return (block for _, block in blocks_from(path, 0))


def blocks_from(path: Path, begin: int) -> Iterator[tuple[int, np.ndarray]]:
    """The good blocks from byte `begin` on, each with the position of its end: there a later call goes on.

    Raises UnavailableError where the disk does not answer.
    """
    with open(path, "rb") as file:
        for piece in _pieces(path, file, begin):
            if piece.rows is not None and (body := _body(path, file, piece)) is not None:
                yield piece.end, body


def scan(path: Path, *, verify: bool = False) -> Scan:
    """Count a shard's rows, from the blocks' heads alone. verify: from their checksums, which reads all of it.

    Raises UnavailableError where the disk does not answer.
    """
    rows = end = 0
    bad = []
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        for piece in _pieces(path, file, 0):
            end = piece.end
            if piece.rows is None:
                bad.append(piece)
            elif verify and _body(path, file, piece) is None:
                bad.append(Piece(piece.begin, piece.end, None, f"{piece.rows:,} rows with a wrong checksum"))
            else:
                rows += piece.rows
    return Scan(rows, size - end, tuple(bad))


def _pieces(path: Path, file: BinaryIO, begin: int) -> Iterator[Piece]:
    """The blocks whose heads are whole, and the stretches between them that are none, up to a torn end."""
    size = os.fstat(file.fileno()).st_size
    while begin < size:
        try:
            head = _head(file, begin)
            found = begin if head is not None else _next_head(file, begin + 1, size)
        except OSError as error:
            raise trace_error(path, f"{path}: {error}", error) from error
        if found < 0:
            if begin == 0:
                _refuse_older(path, file)
            return
        if head is None:
            if begin == 0:
                _refuse_older(path, file)
            yield Piece(begin, found, None, "not the head of a block")
            begin = found
            continue
        body_bytes, rows = head
        end = begin + _HEAD_BYTES + body_bytes
        if end > size:
            return
        yield Piece(begin, end, rows)
        begin = end


def _refuse_older(path: Path, file: BinaryIO) -> None:
    """Shards of before 0.2 had no heads. Raises TraceError."""
    file.seek(0)
    if file.read(6) == b"\x93NUMPY":
        raise TraceError(f"{path}: rows of an older version of the program; merge it with that one")


def _head(file: BinaryIO, at: int) -> tuple[int, int] | None:
    """(bytes of the body, its rows) of the block that begins here; None where no whole head does."""
    file.seek(at)
    data = file.read(_HEAD_BYTES)
    if len(data) < _HEAD_BYTES or not data.startswith(_MAGIC):
        return None
    if _CHECK.unpack_from(data, _HEAD.size)[0] != crc32.iscsi(data[: _HEAD.size]):
        return None
    _, body_bytes, rows, _ = _HEAD.unpack_from(data)
    return body_bytes, rows


def _next_head(file: BinaryIO, at: int, size: int) -> int:
    """Where the next whole head begins; -1 where there is none."""
    while at < size:
        file.seek(at)
        data = file.read(_SEARCH_BYTES)
        here = data.find(_MAGIC)
        while here >= 0:
            if _head(file, at + here) is not None:
                return at + here
            here = data.find(_MAGIC, here + 1)
        at += max(1, len(data) - len(_MAGIC) + 1)
    return -1


def _body(path: Path, file: BinaryIO, piece: Piece) -> np.ndarray | None:
    """A block's rows; None where their checksum is wrong, or they are no rows at all.

    Raises UnavailableError where the disk does not answer.
    """
    try:
        file.seek(piece.begin)
        data = file.read(piece.end - piece.begin)
    except OSError as error:
        raise trace_error(path, f"{path}: {error}", error) from error
    body = memoryview(data)[_HEAD_BYTES:]
    if crc32.iscsi(body) != _HEAD.unpack_from(data)[3]:
        return None
    return _array(body, piece.rows or 0)


def _array(body: memoryview, rows: int) -> np.ndarray | None:
    """What a block holds; None where its checksum is right and it is still none of ours. Never unpickles.

    numpy would make room for whatever the description says: it is compared with what is there first.
    """
    file = io.BytesIO(body)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            return None
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject or shape[:1] != (rows,) or prod(shape) * dtype.itemsize != len(body) - file.tell():
            return None
        flat = np.frombuffer(body[file.tell() :], dtype, count=prod(shape))
        return flat.reshape(shape, order="F" if fortran else "C").copy()
    except Exception:  # numpy's reader of descriptions may fail in any way
        return None
