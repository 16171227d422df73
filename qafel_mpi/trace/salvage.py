"""What is left of a trace file that was cut short: a copy that broke off, a full disk, a quota.

HDF5 refuses such a file because it is shorter than its superblock says. Tables are stored contiguously and the
file's own bookkeeping lies mostly before them, so that with zeros for what is missing it opens, and the rows
that lie before the cut are whole.
"""

from __future__ import annotations

import struct
from pathlib import Path

import h5py

from qafel_mpi.hdf5 import SIGNATURE, CutFile

_LONGEST = 1 << 62
_END_OF_FILE_AT = 40  # in a superblock of version 0 with addresses of 8 bytes: the end of file address


def cut_file(path: Path) -> CutFile | None:
    """The file with zeros for what it lacks; None where this is no HDF5 file, or not shorter than it should be."""
    with open(path, "rb") as file:
        head = file.read(_END_OF_FILE_AT + 8)
    if len(head) < _END_OF_FILE_AT + 8 or not head.startswith(SIGNATURE) or head[8] != 0:
        return None
    (whole_bytes,) = struct.unpack_from("<Q", head, _END_OF_FILE_AT)
    size = path.stat().st_size
    return CutFile(path, whole_bytes) if size < whole_bytes < _LONGEST else None


def readable_rows(data: h5py.Dataset, present_bytes: int) -> int:
    """Rows of a contiguous table that lie before the cut."""
    offset = data.id.get_offset()
    if offset is None or not data.shape:
        return 0
    return max(0, min(data.shape[0], (present_bytes - offset) // data.dtype.itemsize))
