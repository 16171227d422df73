"""Reading a trace back: nothing but h5py and numpy, lazily, in blocks.

    with open_trace("runs/a.h5") as trace:
        for block in trace.blocks("messages"):
            total += block["payload_bytes"].sum()

A run that is still going on, or was killed before its merge, is read from its folder of shards the same way:
`open_trace("runs/a.shards")`.
"""

from __future__ import annotations

from pathlib import Path

import h5py

from qafel_mpi.trace.clock import Clocks
from qafel_mpi.trace.file import BLOCK_ROWS, DAMAGE, CutTrace, Trace
from qafel_mpi.trace.live import ShardTrace
from qafel_mpi.trace.salvage import CutFile
from qafel_mpi.trace.shards import TraceError
from qafel_mpi.trace_schema import SCHEMA_VERSION

__all__ = ["BLOCK_ROWS", "Clocks", "Trace", "TraceError", "follow", "open_trace"]


def open_trace(path: str | Path, *, salvage: bool = False) -> Trace:
    """Open a trace file, or the folder of shards of a run that has none yet.

    salvage: also read what can be read of a file that was cut short or is of a newer schema version; the
    trace's notes say what is missing. Raises TraceError that names the file and what is wrong with it.
    """
    path = Path(path)
    if not path.exists():
        raise TraceError(f"{path}: no such file")
    if path.is_dir():
        return ShardTrace(path)
    if path.stat().st_size == 0:
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


def follow(directory: Path) -> ShardTrace:
    """A run that goes on, as far as its ranks have flushed. Raises TraceError where the folder is no run's."""
    return ShardTrace(directory)


def _open(path: Path, salvage: bool) -> Trace:
    try:
        return Trace(path, h5py.File(path, "r"))
    except DAMAGE as error:
        reason = (str(error).splitlines() or ["damaged"])[0]
        if salvage and (cut := CutFile.of(path)):
            try:
                return CutTrace(path, cut, h5py.File(cut, "r"))
            except DAMAGE as hopeless:
                reason = f"{reason}; nothing of it can be read: {hopeless}"
        raise TraceError(
            f"{path}: not an HDF5 file, or cut short ({reason}); "
            "if the run's shards are still there, qafel-mpi merge makes it again"
        ) from error
