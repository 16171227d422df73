"""A State in a file: JSON for what is plain, the bytes of its arrays, and checksums. To read one runs no code.

| offset | type | meaning                                                          |
|--------|------|------------------------------------------------------------------|
| 0      | S4   | b"QFCK"                                                          |
| 4      | u4   | version of this format, 1                                        |
| 8      | u8   | bytes of the document                                            |
| 16     | u8   | bytes of the file                                                |
| 24     | u4   | CRC-32C of the document                                          |
| 28     | u4   | CRC-32C of the 28 bytes before                                   |
| 32     | JSON | the document, UTF-8: {"state": ..., "arrays": [...]}             |

All little-endian. An array in the state is {"$array": i}; arrays[i] has its dtype (as numpy.lib.format writes it),
shape, CRC-32C and place in the file, a multiple of 64.
"""

from __future__ import annotations

import errno
import json
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from fastcrc import crc32

from qafel_mpi.kernels.state import State

MAGIC, FORMAT = b"QFCK", 1
_HEAD = struct.Struct("<4sIQQI")
_CHECK = struct.Struct("<I")
_HEAD_BYTES = _HEAD.size + _CHECK.size
_ALIGN = 64
_ARRAY = "$array"
_MOST_DIMENSIONS = 8
# What a document can bring about whose checksums are right and whose content is not ours.
_HOSTILE = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError, SyntaxError,
)  # fmt: skip
_PIECE = 1 << 22  # bytes for a checksum or a write at a time: other threads run in between


class CheckpointError(Exception):
    """A checkpoint that can't be written, read or used; the message names the file, and says what to do."""


def copied(state: State) -> State:
    """The state with arrays of its own: what it was taken from may go on."""
    return {name: _copied(value) for name, value in state.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    return copied(value) if isinstance(value, dict) else value


def nbytes(state: State) -> int:
    """Bytes of all arrays in it."""
    return sum(
        value.nbytes if isinstance(value, np.ndarray) else nbytes(value) if isinstance(value, dict) else 0
        for value in state.values()
    )


def write(path: Path, state: State) -> int:
    """The file appears under its name only when it is whole and on the disk. Returns its bytes. Raises OSError."""
    arrays: list[np.ndarray] = []
    tree = _plain(state, arrays)
    places, at = [], 0
    for array in arrays:
        places.append(at)
        at = _aligned(at + array.nbytes)
    described = [
        {
            "dtype": np.lib.format.dtype_to_descr(array.dtype),
            "shape": list(array.shape),
            "at": place,
            "crc": _checksum(array),
        }
        for array, place in zip(arrays, places, strict=True)
    ]
    document = json.dumps({"state": tree, "arrays": described}).encode()
    base = _aligned(_HEAD_BYTES + len(document))
    head = _HEAD.pack(MAGIC, FORMAT, len(document), base + at, crc32.iscsi(document))
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb", buffering=0) as file:
            _write(file, head + _CHECK.pack(crc32.iscsi(head)) + document)
            for array, place in zip(arrays, places, strict=True):
                file.seek(base + place)
                _write(file, _bytes(array))
            file.truncate(base + at)
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return base + at


def read(path: Path) -> State:
    """What was written, every checksum verified. Raises CheckpointError."""
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from error


def sync_folder(folder: Path) -> None:
    """A file's name is on the disk. Some file systems can't, and need not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def _read(path: Path, file: BinaryIO) -> State:
    size = os.fstat(file.fileno()).st_size
    head = file.read(_HEAD_BYTES)
    if not head.startswith(MAGIC):
        raise CheckpointError(f"{path}: not a checkpoint of qafel-mpi")
    if len(head) < _HEAD_BYTES or crc32.iscsi(head[: _HEAD.size]) != _CHECK.unpack_from(head, _HEAD.size)[0]:
        raise CheckpointError(f"{path}: damaged: its head has a wrong checksum")
    _, version, document_bytes, file_bytes, checksum = _HEAD.unpack_from(head)
    if version != FORMAT:
        raise CheckpointError(f"{path}: a checkpoint of format {version}; this version reads format {FORMAT}")
    if size != file_bytes or document_bytes > size:
        raise CheckpointError(f"{path}: damaged: it has {size:,} bytes, and {file_bytes:,} were written")
    document = file.read(document_bytes)
    if crc32.iscsi(document) != checksum:
        raise CheckpointError(f"{path}: damaged: its description has a wrong checksum")
    base = _aligned(_HEAD_BYTES + document_bytes)
    try:
        content = json.loads(document)
        arrays = [_array(path, file, base, size, n, about) for n, about in enumerate(content["arrays"])]
        state: State = _restored(content["state"], arrays)
        if not isinstance(state, dict):
            raise TypeError("its state is no table")
    except _HOSTILE as error:
        raise CheckpointError(f"{path}: not a checkpoint that this program wrote ({error})") from error
    return state


def _array(path: Path, file: BinaryIO, base: int, size: int, n: int, about: dict[str, Any]) -> np.ndarray:
    descr = about["dtype"]
    fields: Any = descr if isinstance(descr, str) else [tuple(field) for field in descr]
    dtype = np.lib.format.descr_to_dtype(fields)
    shape = tuple(int(length) for length in about["shape"])
    if dtype.hasobject or dtype.itemsize == 0 or len(shape) > _MOST_DIMENSIONS or min(shape, default=0) < 0:
        raise ValueError(f"array {n} is of {dtype} and {len(shape)} dimensions")
    count, begin = 1, base + int(about["at"])
    for length in shape:
        count *= length
    # Before there is room for it: a wrong number must not ask for more memory than the file has bytes.
    if begin < base or begin + count * dtype.itemsize > size:
        raise ValueError(f"array {n} lies beyond the end")
    file.seek(begin)
    array = np.fromfile(file, dtype=dtype, count=count).reshape(shape)
    if _checksum(array) != int(about["crc"]):
        raise CheckpointError(f"{path}: damaged: array {n} of its description has a wrong checksum")
    return array


def _plain(value: Any, arrays: list[np.ndarray]) -> Any:
    """The value as JSON takes it; its arrays are appended to the list."""
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError("an array of objects has no plain bytes")
        arrays.append(np.ascontiguousarray(value) if value.ndim else value.reshape(()))
        return {_ARRAY: len(arrays) - 1}
    if isinstance(value, dict):
        return {str(name): _plain(item, arrays) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, arrays) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _restored(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_ARRAY}:
            return arrays[int(value[_ARRAY])]
        return {name: _restored(item, arrays) for name, item in value.items()}
    return [_restored(item, arrays) for item in value] if isinstance(value, list) else value


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


def _checksum(array: np.ndarray) -> int:
    data, found = _bytes(array), 0
    for begin in range(0, len(data), _PIECE):
        found = crc32.iscsi(data[begin : begin + _PIECE], found)
    return found


def _write(file: Any, data: bytes | memoryview) -> None:
    view, at = memoryview(data), 0
    while at < len(view):
        at += file.write(view[at : at + _PIECE])


def _aligned(at: int) -> int:
    return -(-at // _ALIGN) * _ALIGN
