"""Files that a command writes: all of it under its name or nothing, and none in the place of a trace."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qafel_mpi.hdf5 import is_hdf5

OF_TRACES = (".h5", ".shards")


def part_of(path: Path) -> Path:
    """Where a file is written before it takes its name; the path itself where that is a device or a pipe."""
    if path.exists() and not path.is_file():
        return path
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to: the file of that name is the old one or all of the new one, never a half. Makes its folder.

    Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    try:
        yield part
        if part != path:
            os.replace(part, path)
    finally:
        if part != path:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def in_the_way(out: Path, inputs: Iterable[Path] = ()) -> str:
    """Why a command that writes something other than a trace may not write to this path; empty where it may.

    inputs: what it reads.
    """
    if is_one_of(out, inputs):
        return f"{out}: it is one of the files to read; take another name"
    if out.suffix in OF_TRACES:
        return f"{out}: a trace has such a name, and no trace is written; take another suffix"
    if is_hdf5(out):
        return f"{out}: holds a trace or another HDF5 file; take another name, or delete it first"
    return ""


def is_one_of(path: Path, others: Iterable[Path]) -> bool:
    """Whether it is the same file or folder as one of these, by whatever name."""
    return os.path.realpath(path) in map(os.path.realpath, others)
