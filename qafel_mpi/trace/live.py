"""A run that has no trace file yet, read from its shards: while it goes on, or after it was killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qafel_mpi.trace.clock import Clocks, correct
from qafel_mpi.trace.file import BLOCK_ROWS, Trace, conform
from qafel_mpi.trace.merge import SUFFIX, read_clock, read_run
from qafel_mpi.trace.shards import TraceError, blocks_from, scan, shard_path, shard_ranks
from qafel_mpi.trace_schema import OWN_TIMES, SCHEMA_VERSION, TABLES


class ShardTrace(Trace):
    """The tables of a folder of shards, as far as they were flushed when they are asked for."""

    def __init__(self, directory: Path):
        super().__init__(directory, None)
        read_run(directory)  # refuses a folder that is no run's
        merged = directory.with_suffix(".h5")
        advice = f"qafel-mpi merge {directory}" if directory.suffix == SUFFIX else "qafel-mpi merge"
        self.notes = (f"{directory}: the run has not been merged ({advice} makes {merged.name})",)

    @cached_property
    def attributes(self) -> dict[str, Any]:
        found = read_run(self.path)
        found.setdefault("outcome", "not finished")
        plain = {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in found.items()}
        return plain | {"schema_version": SCHEMA_VERSION}

    def _largest_of_ranks(self) -> int:
        return max(shard_ranks(self.path, "ranks"), default=-1)  # without opening a file of each

    def rows(self, table: str) -> int:
        return sum(scan(path).rows for path in self._shards(table).values())

    def blocks(
        self, name: str, columns: list[str] | None = None, *, rows: int = BLOCK_ROWS
    ) -> Iterator[np.ndarray]:
        for block in self.new_blocks(name, {}):
            yield block if columns is None else block[columns]

    def new_blocks(self, name: str, ends: dict[int, int], *, only: int | None = None) -> Iterator[np.ndarray]:
        """The blocks that were flushed since the call before.

        ends: rank -> how far its shard was read, in bytes; kept by the caller, brought up to date here.
        only: this rank's shard, so that to follow a run of many ranks does not open all of their files.
        """
        if name == "clock":
            yield read_clock(self.path)
            return
        clocks = self._clocks(only) if name in OWN_TIMES else None
        shards = self._shards(name) if only is None else self._shard(name, only)
        for rank, path in shards.items():
            for end, block in blocks_from(path, ends.get(rank, 0)):
                ends[rank] = end
                try:
                    rows = conform(block, TABLES[name])
                except TypeError as error:
                    raise TraceError(f"{path}: {error}") from error
                if clocks is not None:
                    correct(name, rows, clocks.of(rank))
                yield rows

    def _clocks(self, only: int | None) -> Clocks:
        clock = read_clock(self.path)
        own = clock if only is None else clock[clock["rank"] == only]
        return Clocks(own, float(self.attributes.get("origin_s", 0.0)))

    def _shard(self, table: str, rank: int) -> dict[int, Path]:
        path = shard_path(self.path, table, rank)
        return {rank: path} if path.exists() else {}

    def _shards(self, table: str) -> dict[int, Path]:
        return {rank: shard_path(self.path, table, rank) for rank in shard_ranks(self.path, table)}
