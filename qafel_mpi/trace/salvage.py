"""What is left of a trace file that was cut short: a copy that broke off, a full disk, a quota.

HDF5 refuses such a file because it is shorter than its superblock says. Tables are stored contiguously and the
file's own bookkeeping lies mostly before them, so that with zeros for what is missing it opens, and the rows
that lie before the cut are whole.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import h5py

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_END_OF_FILE_AT = 40  # in a superblock of version 0 with addresses of 8 bytes: the end of file address


class CutFile(io.RawIOBase):
    """A file read as if it had its whole length: zeros where it was cut off."""

    def __init__(self, path: Path, whole_bytes: int):
        super().__init__()
        self.whole_bytes = whole_bytes
        self.present_bytes = path.stat().st_size
        self._file = open(path, "rb")  # noqa: SIM115 - closed with this object
        self._at = 0

    @classmethod
    def of(cls, path: Path) -> CutFile | None:
        """None where this is no HDF5 file, or one that is not shorter than it should be."""
        with open(path, "rb") as file:
            head = file.read(_END_OF_FILE_AT + 8)
        if len(head) < _END_OF_FILE_AT + 8 or not head.startswith(_SIGNATURE) or head[8] != 0:
            return None
        (whole_bytes,) = struct.unpack_from("<Q", head, _END_OF_FILE_AT)
        return cls(path, whole_bytes) if whole_bytes > path.stat().st_size else None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.whole_bytes}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self.whole_bytes - self._at))
        self._file.seek(self._at)
        found = self._file.readinto(view[:wanted]) if self._at < self.present_bytes else 0
        view[found:wanted] = bytes(wanted - found)
        self._at += wanted
        return wanted

    def close(self) -> None:
        self._file.close()
        super().close()


def readable_rows(data: h5py.Dataset, present_bytes: int) -> int:
    """Rows of a contiguous table that lie before the cut."""
    offset = data.id.get_offset()
    if offset is None or not data.shape:
        return 0
    return max(0, min(data.shape[0], (present_bytes - offset) // data.dtype.itemsize))
