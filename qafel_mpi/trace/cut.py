"""A run's shards, cut back to a moment: a resumed run records again what came behind its checkpoint.

Every cut can be made again, and one that was cut short by a kill is completed by the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from qafel_mpi.trace.merge import MERGED_FILE, read_clock
from qafel_mpi.trace.shards import ShardWriter, TraceError, read_blocks, scan, shard_path, shard_ranks
from qafel_mpi.trace_schema import NO_RANK, TABLES

ALL_BUT_RANKS = tuple(
    name for name in TABLES if name != "ranks"
)  # /ranks has one row, which each start replaces


def positions_of(directory: Path, ranks_from: int) -> dict[int, np.ndarray]:
    """The bytes of the shards of ranks from this one on: what is left of ranks that take no part any more.

    Each (len(TABLES),) int64, as Recorder.positions.
    """
    ranks = {rank for table in TABLES for rank in shard_ranks(directory, table) if rank >= ranks_from}
    return {rank: np.array([_size(shard_path(directory, t, rank)) for t in TABLES]) for rank in sorted(ranks)}


def cut_to_positions(directory: Path, positions: dict[int, np.ndarray]) -> int:
    """Cut every shard at its position; a shard of a rank that has none goes. /ranks is left alone.

    Returns the bytes that a shard is short of its position, over all: rows that were never on the disk.
    Raises TraceError.
    """
    short = 0
    for at, table in enumerate(TABLES):
        if table == "ranks":
            continue
        for rank in {*shard_ranks(directory, table), *positions}:
            path, wanted = (
                shard_path(directory, table, rank),
                int(positions[rank][at]) if rank in positions else 0,
            )
            size = _size(path)
            short += max(0, wanted - size)
            if size > wanted:
                _cut(path, wanted)
    with suppress(OSError):  # what it says is true no more
        (directory / MERGED_FILE).unlink(missing_ok=True)
    return short


def forget_ends(directory: Path) -> None:
    """Every rank is under way again, and how many rows it said it recorded holds no more. Raises TraceError.

    To be called before a cut, which a kill may stop at any place.
    """
    _tell_rows(directory, lambda rank: -1)


def tell_rows_left(directory: Path) -> None:
    """After a cut: each rank of a shard of /ranks recorded what is left of it. Who takes part says more at its end.

    Raises TraceError.
    """
    others = [table for table in TABLES if table != "ranks"]
    _tell_rows(directory, lambda rank: sum(rows_in(shard_path(directory, table, rank)) for table in others))


def _tell_rows(directory: Path, rows_of: Callable[[int], int]) -> None:
    for rank in shard_ranks(directory, "ranks"):
        path = shard_path(directory, "ranks", rank)
        if (row := next(read_blocks(path), None)) is not None:  # else damaged
            row["rows_written"] = rows_of(rank)
            ShardWriter(path).replace(row)


def rows_in(shard: Path) -> int:
    """Rows of a shard; none where it does not exist."""
    return scan(shard).rows if shard.exists() else 0


def cut_rows(path: Path, keep: Callable[[np.ndarray], np.ndarray]) -> int:
    """Leave the rows of a shard for which keep(rows) is true, (n,) bool; returns how many went. Raises TraceError.

    A torn end goes too: what is appended behind it would be hidden.
    """
    if not path.exists():
        return 0
    if torn := scan(path).torn_bytes:
        _cut(path, _size(path) - torn)
    if not path.exists() or all(keep(block).all() for block in read_blocks(path)):
        return 0
    part = path.with_suffix(".cut")
    part.unlink(missing_ok=True)
    writer, gone = ShardWriter(part), 0
    for block in read_blocks(path):
        kept = block[keep(block)]
        gone += len(block) - len(kept)
        if len(kept):
            writer.append(kept)
    writer.close()
    try:
        os.replace(part, path) if part.exists() else path.unlink()
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    return gone


def offsets_of(directory: Path) -> dict[int, float]:
    """Rank 0's clock minus each rank's own, at the last synchronization that the shards know of."""
    found: dict[int, float] = {}
    clock = read_clock(directory)
    for row in clock[clock["rank"] != NO_RANK]:
        found[int(row["rank"])] = float(row["offset_s"])
    return found


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cut(path: Path, size: int) -> None:
    try:
        if size:
            os.truncate(path, size)
        else:
            path.unlink()
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
