"""HDF5 files of which nobody knows whether they are whole: a child process reads them first.

libhdf5 trusts what a file says of itself. A wrong byte there can end the whole process by a signal, or keep it busy
for ever. So a child reads all that libhdf5 has to interpret: every object, attribute, data type, and the data that
are stored in chunks or vary in length. (Of plain data there is nothing to interpret: bytes are copied.) Where the
child dies, the file is refused, and the process that asked lives.

    python -P hdf5.py FILE [BYTES]      the child; BYTES: the length that a file has which was cut short
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PLACES = (0, 512, 1024, 2048, 4096)  # where libhdf5 looks for it
SECONDS, SECONDS_PER_BYTE = 60.0, 1e-7  # that the child may take: a slow disk, a busy machine
_ROWS = 1 << 16


def crash(path: Path, whole_bytes: int = 0) -> str:
    """How libhdf5 fails this process if it reads the file; empty where it does not. Errors that it reports are none.

    whole_bytes: of a file that was cut short, the length that it should have.
    """
    try:
        about = path.stat()
    except OSError:
        return ""
    if not is_hdf5(path):
        return ""  # libhdf5 says so itself
    return _crash(os.fspath(path.absolute()), whole_bytes, about.st_size, about.st_mtime_ns)


def is_hdf5(path: Path) -> bool:
    """Whether it is a file that begins like HDF5."""
    try:
        if not path.is_file():  # a pipe is not to be read
            return False
        with open(path, "rb") as file:
            found = file.read(_PLACES[-1] + len(SIGNATURE))
    except OSError:
        return False
    return any(found[at:].startswith(SIGNATURE) for at in _PLACES)


@lru_cache(maxsize=1024)
def _crash(path: str, whole_bytes: int, size: int, changed_ns: int) -> str:
    """changed_ns: a file that has changed since is read again."""
    words = [sys.executable, "-P", __file__, path, str(whole_bytes)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=SECONDS + size * SECONDS_PER_BYTE)
    except subprocess.TimeoutExpired:
        return "libhdf5 comes to no end with it"
    except OSError:  # no process to be had: then as if there were no check
        return ""
    return f"libhdf5 crashes on it ({signal.Signals(-done.returncode).name})" if done.returncode < 0 else ""


class CutFile(io.RawIOBase):
    """A file read as if it had its whole length: zeros where it was cut off."""

    def __init__(self, path: Path, whole_bytes: int):
        super().__init__()
        self.whole_bytes = whole_bytes
        self.present_bytes = path.stat().st_size
        self._file = open(path, "rb")  # noqa: SIM115 - closed with this object
        self._at = 0

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


# --- the child ------------------------------------------------------------------------------------------------------


def _read_all(path: str, whole_bytes: int) -> None:
    import h5py

    source = CutFile(Path(path), whole_bytes) if whole_bytes else path
    options = {} if whole_bytes else {"locking": False}
    with h5py.File(source, "r", **options) as file:
        _look_at(file)
        with suppress(Exception):
            file.visititems(lambda _, item: _look_at(item))


def _look_at(item: object) -> None:
    """Errors are the reader's to report: here only ends that are none count."""
    import h5py

    with suppress(Exception):
        dict(item.attrs)  # type: ignore[attr-defined]
    if isinstance(item, h5py.Dataset):
        with suppress(Exception):
            if item.chunks is None and item.id.get_offset() is not None and not _varies(item.dtype):
                return
            for begin in range(0, len(item) if item.shape else 1, _ROWS):
                item[begin : begin + _ROWS] if item.shape else item[()]


def _varies(dtype: object) -> bool:
    """Whether values of the type lie elsewhere in the file, as texts of any length do."""
    return bool(getattr(dtype, "hasobject", True))


if __name__ == "__main__":
    with suppress(Exception):
        _read_all(sys.argv[1], int(sys.argv[2]))
    os._exit(0)  # what libhdf5 does when a process ends is of no interest
