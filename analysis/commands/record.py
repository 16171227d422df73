"""--record: a command's result as a small file that says where its numbers come from."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby
from os.path import commonprefix
from pathlib import Path
from typing import Annotated, Any

import typer
from qafel_analysis.commands.options import refuse, say
from qafel_analysis.read import sources
from qafel_analysis.read.damage import reading
from qafel_analysis.read.runs import each_run

from qafel_mpi.outputs import whole
from qafel_mpi.trace.reader import TraceError

VERSION = 1
_SHORT = re.compile(r"\[\n\s*([^][{}]*?)\n\s*\]")  # a string has no line break in it, so no bracket after one
_BREAK = re.compile(r"\n\s*")


def _refused(path: Path | None) -> Path | None:
    """Before anything is read: which shell pattern stood for several traces is seen at once."""
    if path is not None:
        refuse("--record", path)
    return path


Record = Annotated[
    Path | None,
    typer.Option(
        "--record",
        metavar="FILE",
        callback=_refused,
        help="Also write the numbers to FILE as JSON, with this command, the date, and the command, code and "
        "machine of every run.",
    ),
]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="A remark that --record keeps in FILE.")]


def record(path: Path | None, note: str, kind: str, content: Any, files: Sequence[Path]) -> None:
    """A record of what a command found in these files; nothing where path is None.

    kind: the command that made it. content: its result, JSON-able. files: the traces and results that it was made
    from; those that can't be read were named before.
    """
    if path is not None:
        refuse("--record", path, files)
        write(path, kind, content, _sources(files), note)


def write(path: Path, kind: str, content: Any, made_by: Iterable[sources.Source], note: str = "") -> None:
    """Write {record, kind, command, written, note, sources, content} to path. The command is this process's."""
    found = {
        "record": VERSION,
        "kind": kind,
        "command": sources.command_of(shortened(sys.argv)),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "note": note,
        "sources": sources.merged(made_by),
        "content": content,
    }
    with whole(path) as part:
        part.write_text(as_text(found), encoding="utf-8")
    say([f"{path}: written"])


def of_runs(kind: str, measured: Callable[[Path], Any], note: str = "") -> None:
    """The main of a script that is called as `python SCRIPT.py OUT.json RUN.h5...`: what it finds in each run."""
    out, *runs = map(Path, sys.argv[1:])
    refuse("OUT", out, runs)
    write(out, kind, [measured(path) for path in runs], map(sources.source, runs), note)


def shortened(words: Sequence[str]) -> list[str]:
    """A command line in which three files or more of one folder and suffix, one after the other, are a pattern.

    >>> shortened(["compare", "a/run1.h5", "a/run2.h5", "a/run3.h5", "b/x.h5", "--json"])
    ['compare', 'a/run*.h5', 'b/x.h5', '--json']
    """
    found: list[str] = []
    for (_, suffix), group in groupby(words, key=lambda word: (str(Path(word).parent), Path(word).suffix)):
        alike = list(group)
        pattern = f"{commonprefix(alike)}*{suffix}"  # noqa: RUF071  (of characters, as a shell's pattern)
        found += [pattern] if suffix and len(alike) > 2 else alike
    return found


def as_text(content: Any) -> str:
    """JSON with an item a line, but lists of numbers and words on one line.

    >>> print(as_text({"x": [1, 2.5], "y": [[0, "a"]]}), end="")
    {
     "x": [1, 2.5],
     "y": [
      [0, "a"]
     ]
    }
    """
    lines = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return _SHORT.sub(lambda found: f"[{_BREAK.sub(' ', found[1])}]", lines)


def _sources(files: Iterable[Path]) -> Iterable[sources.Source]:
    """Of each run and each benchmark's result that can be read."""
    given = list(files)
    yield from each_run([path for path in given if path.suffix != ".json"], sources.of_trace).runs
    for path in given:
        with suppress(TraceError), reading(path):
            if path.suffix == ".json":
                yield sources.source(path)
