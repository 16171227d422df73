"""Everything that figures and the report draw, read from the files once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from qafel_analysis.figures import convergence
from qafel_analysis.read import bench, timeline
from qafel_analysis.read.damage import reading
from qafel_analysis.read.rows import Target, row_of
from qafel_analysis.read.runs import each_run
from qafel_analysis.read.timeline import Window
from qafel_analysis.read.traffic import Traffic, traffic
from qafel_analysis.tables.compare import Group, Run, groups

from qafel_mpi.trace.reader import Trace, TraceError, open_trace


@dataclass(frozen=True)
class Drawn:
    """What is drawn of every run; small, however long the run."""

    run: Run
    curve: pd.DataFrame
    gaps: pd.DataFrame
    staleness: np.ndarray  # counts by τ
    attributes: dict[str, Any]
    ranks: np.ndarray  # rows of /ranks


@dataclass(frozen=True)
class Detail:
    """What is drawn of the messages of a few runs."""

    run: Run
    name: str  # of the run, short, and no other run's
    traffic: Traffic
    window: Window
    intervals: pd.DataFrame  # within the window
    shares: pd.DataFrame


@dataclass
class Collection:
    """The readable ones among the files, and a message for each of the others."""

    drawn: list[Drawn] = field(default_factory=list)
    details: list[Detail] = field(default_factory=list)
    benches: list[bench.Bench] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        return [d.run for d in self.drawn]

    @property
    def groups(self) -> list[Group]:
        return groups(self.runs)

    def of(self, group: Group) -> list[Drawn]:
        """What is drawn of a setting's runs."""
        paths = {run["run"] for run in group.runs}
        return [d for d in self.drawn if d.run["run"] in paths]


def collect(
    paths: Sequence[Path],
    target: Target | None = None,
    *,
    details: int = 0,
    intervals: int = 3000,
    window: Window | None = None,
) -> Collection:
    """Read traces and, where a name ends in .json, bench results.

    details: of how many runs the messages are read, the first of each setting before the others. intervals: of a
    timeline, about, from the middle of the run; or what lies in the window.
    """
    traces = [path for path in paths if path.suffix != ".json"]
    read = each_run(traces, lambda trace: _drawn(trace, target))
    found = Collection(drawn=read.runs, failures=read.failures, notes=read.notes)
    for path in dict.fromkeys(paths):
        if path.suffix != ".json":
            continue
        try:
            found.benches += bench.read_bench(path)
        except TraceError as error:
            found.failures.append(str(error))
    names = short_names(paths)
    for run in _representatives(found, details):
        try:
            with reading(Path(run["run"])), open_trace(run["run"], salvage=True) as trace:
                shown = window or timeline.middle(trace, intervals)
                found.details.append(_detail(trace, run, names[Path(run["run"])], shown))
        except TraceError as error:
            found.failures.append(str(error))
    return found


def short_names(paths: Iterable[Path]) -> dict[Path, str]:
    """Each file's name without its suffix, and as many of its folders as tell it from the others. No two are alike.

    >>> short_names([Path("a/x.h5"), Path("b/x.h5"), Path("b/y.h5"), Path("b/y.shards")]).values()
    dict_values(['a-x', 'b-x', 'y.h5', 'y.shards'])
    >>> short_names([Path("x-y.h5"), Path("x/y.h5"), Path("z/y.h5")]).values()
    dict_values(['x-y', 'x-y-2', 'z-y'])
    """
    files = list(dict.fromkeys(paths))
    stems = Counter(path.with_suffix("") for path in files)
    parts: dict[Path, list[str]] = {}
    for path in files:
        shown = path if stems[path.with_suffix("")] > 1 else path.with_suffix("")
        parts[path] = [part for part in shown.parts if part != path.anchor]
    taken = dict.fromkeys(files, 1)
    while True:
        names = {path: "-".join(parts[path][-most:]) for path, most in taken.items()}
        uses = Counter(names.values())
        longer = [path for path in files if uses[names[path]] > 1 and taken[path] < len(parts[path])]
        if not longer:
            return _numbered(names)
        for path in longer:
            taken[path] += 1


def _numbered(names: dict[Path, str]) -> dict[Path, str]:
    """The second of one name gets a 2, and so on; a number that makes another file's name is left out."""
    found: dict[Path, str] = {}
    used: set[str] = set()
    for path, name in names.items():
        others = used | (set(names.values()) - {name})
        found[path] = next(one for one in _numbers(name) if one not in others)
        used.add(found[path])
    return found


def _numbers(name: str) -> Iterator[str]:
    yield name
    for number in count(2):
        yield f"{name}-{number}"


def _drawn(trace: Trace, target: Target | None) -> Drawn:
    return Drawn(
        run=row_of(trace, target),
        curve=convergence.curve(trace),
        gaps=convergence.gaps(trace),
        staleness=convergence.staleness_counts(trace),
        attributes=trace.attributes,
        ranks=trace.table("ranks"),
    )


def _detail(trace: Trace, run: Run, name: str, window: Window) -> Detail:
    found = timeline.intervals(trace, window)
    return Detail(run, name, traffic(trace), window, found, timeline.shares(found, window))


def _representatives(found: Collection, count: int) -> list[Run]:
    """The first run of each setting, then the second, and so on; only runs with messages."""
    members = [group.runs for group in found.groups]
    longest = max(map(len, members), default=0)
    in_turn = [runs[k] for k in range(longest) for runs in members if k < len(runs)]
    picked: list[Run] = []
    for run in in_turn:
        if len(picked) == count:
            break
        with suppress(TraceError), open_trace(run["run"], salvage=True) as trace:
            if trace.rows("messages"):
                picked.append(run)
    return picked
