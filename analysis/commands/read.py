"""Reading the files of a command: what can be read, and a message for what can't. Exit code 2 if nothing can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import typer
from qafel_analysis.commands.options import NOTHING_READ, say, target_of
from qafel_analysis.read import runs as files
from qafel_analysis.read.damage import reading
from qafel_analysis.read.rows import row_of
from qafel_analysis.tables.compare import Run

from qafel_mpi.trace.reader import Trace, TraceError

T = TypeVar("T")


def read(paths: Sequence[Path], accuracy: float | None, loss: float | None) -> list[Run]:
    """The rows of the runs, and on stderr what is wrong with their files."""
    target = target_of(accuracy, loss)
    return each_run(paths, lambda trace: row_of(trace, target))


def each_run(paths: Sequence[Path], look: Callable[[Trace], T]) -> list[T]:
    """What look() makes of each run among the files, once of each."""
    found = files.each_run(paths, look)
    say([*found.failures, *found.notes])
    if not found.runs:
        raise typer.Exit(NOTHING_READ)
    return found.runs


def each(paths: Sequence[Path], read_one: Callable[[Path], T]) -> list[T]:
    """What is read from each file, once of each."""
    found = []
    for path in dict.fromkeys(paths):
        try:
            with reading(path):
                found.append(read_one(path))
        except TraceError as error:
            say([error])
    if not found:
        raise typer.Exit(NOTHING_READ)
    return found
