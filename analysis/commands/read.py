"""Reading the files of a command: each that can be read, and a message for each that can't."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import typer
from qafel_analysis.commands.options import NOTHING_READ, say, target_of
from qafel_analysis.read import rows as table
from qafel_analysis.read.damage import reading
from qafel_analysis.tables.compare import Run

from qafel_mpi.trace.reader import TraceError

T = TypeVar("T")


def read(paths: Sequence[Path], accuracy: float | None, loss: float | None) -> list[Run]:
    """The rows of the runs, and on stderr what is wrong with their files."""
    target = target_of(accuracy, loss)
    found = each(paths, lambda path: table.row(path, target))
    for run in found:
        say(run["notes"])
    return found


def each(paths: Sequence[Path], read_one: Callable[[Path], T]) -> list[T]:
    """What is read from each file that can be read; a message for each that can't. Exit code 2 if none can."""
    found = []
    for path in paths:
        try:
            with reading(path):
                found.append(read_one(path))
        except TraceError as error:
            say([error])
    if not found:
        raise typer.Exit(NOTHING_READ)
    return found
