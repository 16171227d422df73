"""The runs of a command's files: each file that can be read, a message for each that can't, and no run twice.

A run may be in several files: its trace and the shards it was merged from, a copy, an earlier merge of a run that
went on. Counted twice, it would look like two seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from qafel_analysis.read.damage import reading

from qafel_mpi.trace.reader import Trace, TraceError, open_trace

T = TypeVar("T")
_OF_A_RUN = ("started", "host", "origin_s", "seed", "experiment")  # no two runs have all of them in common


@dataclass
class Found(Generic[T]):
    """What was made of each run, in the order of the files. notes: what is wrong with files that were read."""

    runs: list[T] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _File(Generic[T]):
    path: Path
    rank: tuple[int, bool]  # among the files of one run: how far they go, and whether they are whole
    content: T


def each_run(paths: Sequence[Path], look: Callable[[Trace], T]) -> Found[T]:
    """What look() makes of each run. Of several files of one run, of that which goes furthest."""
    found: Found[T] = Found()
    best: dict[Hashable, _File[T]] = {}
    for path in paths:
        try:
            with reading(path), open_trace(path, salvage=True) as trace:
                own, key = _File(path, (trace.rows("updates"), not trace.notes), look(trace)), identity(trace)
                found.notes += trace.notes
        except TraceError as error:
            found.failures.append(str(error))
            continue
        other = best.get(key)
        if other is not None:
            kept = own if own.rank > other.rank else other
            left = other if kept is own else own
            found.notes.append(f"{left.path}: the same run as {kept.path}; it counts once")
            own = kept
        best[key] = own
    found.runs = [file.content for file in best.values()]
    return found


def identity(trace: Trace) -> Hashable:
    """What the files of one run have in common, and no other run has. Of a trace that does not say: its place."""
    about = trace.attributes
    if "started" not in about:
        return trace.path.resolve()
    return tuple(about.get(name) for name in _OF_A_RUN)
