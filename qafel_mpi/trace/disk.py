"""An HDF5 file on a disk that may fail: an error of the disk is an OSError, and nothing worse.

libhdf5 that can't write says so in many ways, of which some come only when it closes the file, or when the process
ends. So it writes through this module: what the disk refuses is noted and taken as written, libhdf5 goes on to its
end, and then the disk's own error is raised. The file is of no use then, and the caller removes it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py


class _Disk(io.RawIOBase):
    """A file for libhdf5. error: the first that the disk gave; from then on nothing is written."""

    def __init__(self, path: Path, *, new: bool):
        super().__init__()
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if new else 0)
        self.error: OSError | None = None
        self._file = os.open(path, flags, 0o644)
        self._at = 0
        self._end = os.fstat(self._file).st_size

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence] + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """What was refused reads as zeros."""
        view = memoryview(buffer).cast("B")
        found = 0
        try:
            while found < len(view) and (size := os.preadv(self._file, [view[found:]], self._at + found)):
                found += size
        except OSError as error:
            self.error = self.error or error
        view[found:] = bytes(len(view) - found)
        self._at += len(view)
        return len(view)

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view) and self.error is None:
                written += os.pwrite(self._file, view[written:], self._at + written)
        except OSError as error:
            self.error = error
        self._at += len(view)
        self._end = max(self._end, self._at)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._end = self._at if size is None else size
        try:
            if self.error is None:
                os.ftruncate(self._file, self._end)
        except OSError as error:
            self.error = error
        return self._end

    def settle(self) -> None:
        """Close the file. Raises OSError where the disk has failed."""
        os.close(self._file)
        if self.error is not None:
            raise self.error


@contextmanager
def hdf5(path: Path, *, new: bool) -> Iterator[h5py.File]:
    """The file open for writing: a new one, or one that is there.

    Raises OSError where the disk fails, at the end of the block at the latest.
    """
    disk = _Disk(path, new=new)
    try:
        with h5py.File(disk, "w" if new else "r+") as file:
            yield file
    except Exception:
        if disk.error is None:
            raise
    finally:
        disk.settle()
