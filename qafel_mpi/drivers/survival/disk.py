"""The disk under the trace fails: trace.on_error says whether the run stops or goes on without what was refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qafel_mpi.trace.claim import NameTakenError, take
from qafel_mpi.trace.merge import Merged, merge, shards_of, write_final, write_run
from qafel_mpi.trace.shards import TraceError

GOES_ON = "the run goes on without it (trace.on_error)"


@dataclass
class DiskFaults:
    """On one rank: what the disk refused. A Recorder calls it for rows.

    speaks: whether this rank says the first fault; of many ranks that write to one disk a few are enough. noticed:
    called with the first fault. untaken: the trace's name could not be taken, so that nothing may be written there.
    """

    go_on: bool
    speaks: bool = True
    lost_rows: int = 0
    first: str = ""
    untaken: bool = False
    noticed: Callable[[str], None] = lambda _: None

    def __call__(self, error: TraceError, rows: int = 0) -> None:
        """Take note of it. Raises it where the run is to stop."""
        if not self.go_on:
            raise error
        self.lost_rows += rows
        if not self.first:
            self.first = str(error)
            if self.speaks:
                say(f"{error}; {GOES_ON}")
            self.noticed(self.first)

    def take_name(self, out: Path) -> str:
        """Take the trace's name; why this can't be done and the run can't begin, or an empty string."""
        try:
            take(shards_of(out), replace=True)
        except NameTakenError as error:
            return str(error)
        except TraceError as error:
            if not self.go_on:
                return str(error)
            self.untaken = True
            self(error)
        return ""

    def begin(self, directory: Path, attributes: dict[str, Any]) -> None:
        """The run's attributes beside the shards, as far as they are known before it."""
        if not self.untaken:
            try:
                write_run(directory, attributes)
            except TraceError as error:
                self(error)

    def complete(
        self,
        directory: Path,
        out: Path,
        attributes: dict[str, Any],
        *,
        remove: bool = True,
        **vectors: np.ndarray,
    ) -> Merged | None:
        """The end of a run: its attributes and final vectors beside the shards, and the trace file made of all.

        remove: the shards, when all of them is in it.

        None where the disk refused it and the run is not to fail for it.
        """
        if self.untaken:
            say(f"there is no {out}: {self.first}")
            return None
        try:
            write_run(directory, attributes)
            write_final(directory, **vectors)
            return merge(directory, out, remove=remove)
        except TraceError as error:
            why = f"{error}; when there is room: `qafel-mpi merge {directory}`"
            if not self.go_on:
                raise TraceError(why) from error
            say(f"there is no {out} yet: {why}")
        return None


def tell(merged: Merged, directory: Path, hosts: Sequence[str]) -> None:
    """What the trace lacks, and what could not be removed. hosts: of each rank."""
    lines = merged.warnings()
    if merged.not_removed:
        lines.append(f"it is complete; {merged.not_removed}")
    if merged.missing_ranks:
        some = ", ".join(f"{r} on {hosts[r]}" for r in merged.missing_ranks[:8])
        lines.append(
            f"it has no rows of rank {some}; {directory} is kept, so that `qafel-mpi merge` can look again"
        )
    for line in lines:
        say(f"{merged.path}: {line}")


def say(text: str) -> None:
    print(f"qafel-mpi: {text}", file=sys.stderr, flush=True)
