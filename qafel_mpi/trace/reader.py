"""Reading a trace back: nothing but h5py and numpy, lazily, in blocks.

    with open_trace("runs/a.h5") as trace:
        for block in trace.blocks("messages"):
            total += block["payload_bytes"].sum()

A run that is still going on, or was killed before its merge, is read from its folder of shards the same way:
`open_trace("runs/a.shards")`.
"""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from typing import BinaryIO

import h5py

from qafel_mpi.hdf5 import crash
from qafel_mpi.trace.claim import holds_a_run
from qafel_mpi.trace.clock import Clocks
from qafel_mpi.trace.file import BLOCK_ROWS, DAMAGE, CutTrace, Trace
from qafel_mpi.trace.live import ShardTrace
from qafel_mpi.trace.merge import SUFFIX
from qafel_mpi.trace.salvage import cut_file
from qafel_mpi.trace.seal import NAME, Seal
from qafel_mpi.trace.shards import TraceError, UnavailableError, trace_error
from qafel_mpi.trace_schema import SCHEMA_VERSION

__all__ = ["BLOCK_ROWS", "Clocks", "Trace", "TraceError", "UnavailableError", "follow", "open_trace"]

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # of file systems that cannot lock


def open_trace(path: str | Path, *, salvage: bool = False) -> Trace:
    """Open a trace file, or the folder of shards of a run that has none yet.

    salvage: also read what can be read of a file that was cut short or is of a newer schema version; the
    trace's notes say what is missing. Raises TraceError that names the file and what is wrong with it:
    UnavailableError where it can't be opened now, which says nothing about what is in it.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file{_unmerged(path)}") from None
    except OSError as error:
        raise trace_error(path, f"{path}: {error.strerror}", error) from error
    if path.is_dir():
        return ShardTrace(path)
    if size == 0:
        raise TraceError(
            f"{path}: empty file; the run may have been killed: try qafel-mpi merge on its shards"
        )
    trace = _open(path, salvage)
    try:
        version = trace.attributes.get("schema_version")
    except TraceError:
        trace.close()
        raise
    if not isinstance(version, int | float):
        trace.close()
        raise TraceError(f"{path}: an HDF5 file, but not a trace of qafel_mpi (no schema_version)")
    if version > SCHEMA_VERSION:
        newer = (
            f"{path}: schema version {version}, this program reads up to {SCHEMA_VERSION}: update qafel_mpi"
        )
        if not salvage:
            trace.close()
            raise TraceError(newer)
        trace.notes += (f"{newer}; read as far as it is known",)
    return trace


def _unmerged(path: Path) -> str:
    """Where a run that has not been merged may be, as the end of a sentence; empty where there is none."""
    shards = path.with_suffix(SUFFIX)
    if not holds_a_run(shards):
        return ""
    return f"; {shards} holds a run that goes on or was cut short: `qafel-mpi merge {shards}` makes a trace of it"


def follow(directory: Path) -> ShardTrace:
    """A run that goes on, as far as its ranks have flushed. Raises TraceError where the folder is no run's."""
    return ShardTrace(directory)


def _open(path: Path, salvage: bool) -> Trace:
    seal = _compared_seal(path)  # before libhdf5 sees the file
    if seal is None and (why := crash(path)):
        raise TraceError(f"{path}: damaged: {why}; take another copy")
    try:
        file = _h5py_file(path)
        if seal is None and NAME in file:
            file.close()
            raise TraceError(f"{path}: damaged: its seal can't be found; take another copy")
        return Trace(path, file, seal=seal)
    except DAMAGE as error:
        reason = (str(error).splitlines() or ["damaged"])[0]
        found = _not_opened(path, reason, error)
        if isinstance(found, UnavailableError) or not salvage or not (cut := cut_file(path)):
            raise found from error
    if why := crash(path, cut.whole_bytes):
        raise TraceError(f"{path}: cut short, and nothing of it can be read: {why}") from None
    try:
        return CutTrace(path, cut, h5py.File(cut, "r"))
    except DAMAGE as hopeless:
        raise _not_opened(path, f"{reason}; nothing of it can be read: {hopeless}", hopeless) from hopeless


def _compared_seal(path: Path) -> Seal | None:
    """The file's seal, when its descriptions are those that were sealed; None where it has none.

    A program that has the file open for writing has changed it already, and will put it right when it closes it.
    """
    try:
        with open(path, "rb") as file:
            try:
                seal = Seal.of(path)
                if seal is not None:
                    seal.check_rest(path)
                elif (held := _held(file)) is not None:
                    raise held
            except TraceError:
                if (held := _held(file)) is not None:
                    raise held from None
                raise
    except OSError as error:
        raise trace_error(path, f"{path}: {error.strerror}", error) from error
    return seal


def _held(file: BinaryIO) -> OSError | None:
    """The error that says so where another program has the file open for writing, as far as locks tell."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        return error
    except OSError:
        pass
    return None


def _not_opened(path: Path, reason: str, error: Exception) -> TraceError:
    message = (
        f"{path}: not an HDF5 file, or cut short ({reason}); "
        "if the run's shards are still there, qafel-mpi merge makes the file again"
    )
    return trace_error(path, message, error)


def _h5py_file(path: Path) -> h5py.File:
    """Open it for reading; without a lock where the file system has none."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return h5py.File(path, "r", locking=False)
