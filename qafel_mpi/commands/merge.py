"""The command `merge`: the trace of a run that was cut short."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from qafel_mpi.config_text import ConfigError

EXAMPLES = "Examples:\n\n  qafel-mpi merge runs/a.shards\n\n  qafel-mpi merge runs/a.shards --out rescued.h5"


def merge(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A run's folder of shards, NAME.shards.", exists=True, file_okay=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The trace to write. Default: NAME.h5 next to the folder."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing FILE, though it is no trace of this run.")
    ] = False,
) -> None:
    """Make the trace file of a run that was cut short, from everything that its ranks wrote. The shards are kept.

    An earlier trace of the same run is replaced.
    """
    from qafel_mpi.trace.merge import merge as merge_shards

    with _held(directory):
        _refuse(directory, out or directory.with_suffix(".h5"), overwrite)
        merged = merge_shards(directory, out)
    print(f"{merged.path}: {', '.join(f'{rows:,} {table}' for table, rows in merged.rows.items())}")
    for line in merged.warnings():
        print(line, file=sys.stderr)


def _refuse(directory: Path, out: Path, overwrite: bool) -> None:
    """Raises ConfigError where the trace would get a wrong name, or another file than the run's own would go."""
    from qafel_mpi.trace.merge import read_run
    from qafel_mpi.trace.reader import TraceError, open_trace

    if out.suffix != ".h5":
        raise ConfigError([f"--out {out}: a trace is an HDF5 file; call it {out.stem or 'a'}.h5"])
    if overwrite or not out.exists():
        return
    own = ""
    try:
        own = read_run(directory).get("started", "")
        with open_trace(out, salvage=True) as trace:
            there = trace.attributes.get("started", "")
    except TraceError:  # no trace, or one that can't be read
        there = None
    if not own or there != own:
        raise ConfigError([f"{out}: exists, and is no trace of this run; --overwrite replaces it"])


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    """No run or merge begins on the shards meanwhile. Raises ConfigError where one is under way.

    A folder that can't be written to is merged without: nobody else can write there either.
    """
    from qafel_mpi.trace.claim import NameTakenError, hold, holds_a_run, release

    try:
        with suppress(OSError):
            if holds_a_run(directory):
                hold(directory)
    except NameTakenError as error:
        raise ConfigError([f"{error}; wait for it, or see `qafel-analysis watch {directory}`"]) from None
    try:
        yield
    finally:
        release(directory)
