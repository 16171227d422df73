"""The name of a run's trace: taken before any time is spent, so that no two runs write under one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qafel_mpi.config_text import ConfigError

if TYPE_CHECKING:
    from qafel_mpi.trace.claim import Owner


def take_free_name(folder: Path, stem: str, *, go_on: bool = False) -> Path:
    """A name in the folder that no trace has and no other process takes: STEM.h5, else STEM-2.h5 and so on.

    go_on: also where nothing can be written there. Raises ConfigError where the folder can't be written, and where
    another process runs the very same command: several ranks of a launcher that neither we nor MPI know would each
    run the whole experiment.
    """
    from qafel_mpi.trace.claim import LeftoverError, NameTakenError, Owner

    for number in itertools.count(1):
        out = folder / (f"{stem}.h5" if number == 1 else f"{stem}-{number}.h5")
        try:
            _take(out, overwrite=False, go_on=go_on)
        except NameTakenError as error:
            if error.by.command == Owner().command:
                raise ConfigError([_the_same(out, error.by)]) from None
        except (LeftoverError, FileExistsError):
            pass
        else:
            return out
    raise AssertionError("numbers do not end")


def _the_same(out: Path, other: Owner) -> str:
    return (
        f"{out}: {other} runs the same command; wait for it, or name this run with --out. If a launcher started both "
        "as ranks of one job, the MPI library here is not its own: compare with `qafel-mpi info`"
    )


def make_room(out: Path, overwrite: bool, *, go_on: bool = False) -> None:
    """Take the trace's name, and see that it can be written, before any time is spent. Raises ConfigError.

    go_on: the run begins also where nothing can be written.
    """
    from qafel_mpi.trace.claim import LeftoverError, NameTakenError

    if out.suffix != ".h5":
        raise ConfigError([f"--out {out}: a trace is an HDF5 file; call it {out.stem or 'a'}.h5"])
    try:
        _take(out, overwrite, go_on=go_on)
    except NameTakenError as error:
        raise ConfigError([f"--out {out}: {error}; take another name, or wait for it"]) from None
    except (LeftoverError, FileExistsError):
        raise ConfigError([f"--out {out}: {_in_the_way(out, out.with_suffix('.shards'))}"]) from None


def _take(out: Path, overwrite: bool, *, go_on: bool) -> None:
    """Raises NameTakenError, LeftoverError, FileExistsError, and ConfigError where nothing can be written there."""
    try:
        _claim(out, overwrite, go_on=go_on)
    except FileExistsError:
        raise
    except OSError as error:  # a folder that may not be entered shows itself wherever it is looked into first
        if not go_on:
            raise ConfigError([f"--out {out}: {error.filename or out.parent}: {error.strerror}"]) from None


def _claim(out: Path, overwrite: bool, *, go_on: bool) -> None:
    from qafel_mpi.trace.claim import LeftoverError, NameTakenError, locked, release, take
    from qafel_mpi.trace.merge import shards_of
    from qafel_mpi.trace.shards import TraceError

    if overwrite and locked(out):  # before anything is deleted
        raise ConfigError([f"--out {out}: another program has it open; close it there, or take another name"])
    try:
        take(shards_of(out), replace=overwrite)
    except (NameTakenError, LeftoverError):
        raise
    except TraceError as error:
        if not go_on:
            raise ConfigError([f"--out {out}: {error}"]) from None
    if out.exists() and not overwrite:  # looked at now that nobody else can make it
        release(shards_of(out))
        raise FileExistsError(out)


@contextmanager
def given_up() -> Iterator[None]:
    """However the run ends, its name is free for others; where nothing was written, no folder stays."""
    from qafel_mpi.trace.claim import release_all

    try:
        yield
    finally:
        release_all()


def _in_the_way(out: Path, shards: Path) -> str:
    """What stands where the trace is to go, and what to do about it."""
    from qafel_mpi.trace.claim import holds_a_run
    from qafel_mpi.trace.merge import merged_into

    if next(shards.glob("checkpoint.*.qck"), None) is not None:
        go_on = f"`qafel-mpi run --resume {out}` goes on from its checkpoint"
        return f"{shards} holds a run that was cut short; {go_on}, --overwrite deletes it"
    if holds_a_run(shards):
        merged = merged_into(shards)
        if merged is None:
            merge = f"`qafel-mpi merge {shards}` recovers it, --overwrite deletes it"
            return f"{shards} holds a run that was cut short; {merge}"
        if merged != out.absolute():
            return f"{shards} holds a run that was merged into {merged}; --overwrite deletes these shards"
    return "it exists already; --overwrite replaces it"
