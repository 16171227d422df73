"""Results of one benchmark over time: a series for every row, and where it changed.

Change points are found by Apache Otava (https://otava.apache.org): E-divisive means with Student's t-test in place of
permutations (Matteson and James 2014; Fleming et al. 2023), so that the same files give the same points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qafel_mpi.bench.measuring.result import Result, ResultError, Row

SCHEMA_VERSION = 1  # of `bench compare --history … --json`
MAX_P = 0.001  # above, what looks like a change may be chance
MIN_CHANGE = 0.02  # below, nobody acts on it
COLUMNS = {"median_us": "µs", "ratio": "× the reference's speed"}  # what is followed, and its unit
_WINDOW = 50  # points that are looked at together; Otava's default


class MissingPackage(Exception):
    """The message says what to install."""


@dataclass(frozen=True)
class Point:
    """One file's value."""

    file: str
    started: str
    commit: str
    value: float


@dataclass(frozen=True)
class Change:
    """The series has been another one from this point on. change: after / before − 1."""

    index: int
    before: float
    after: float
    change: float
    p_value: float


@dataclass(frozen=True)
class Series:
    """One column of one row through all files, in order of time."""

    bench: str
    parameters: Mapping[str, Any]
    column: str
    points: tuple[Point, ...]
    changes: tuple[Change, ...] = ()

    @property
    def label(self) -> str:
        return " ".join([self.bench, *(f"{k}={v}" for k, v in self.parameters.items())])

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"parameters": {k: str(v) for k, v in self.parameters.items()}}


def series(results: Sequence[tuple[Path, Result]]) -> list[Series]:
    """Of every row, its median time and, against a reference, its ratio, where at least two files have them.

    Raises ResultError where a file does not say when it was measured, MissingPackage without Otava.
    """
    ordered = sorted(results, key=lambda one: (_started(*one), str(one[0])))
    rows: dict[tuple[Any, ...], list[tuple[Point, Row]]] = {}
    for path, result in ordered:
        commit = str(result.provenance.get("git_commit", ""))
        for row in {row.key: row for row in result.rows}.values():
            point = Point(str(path), _started(path, result).isoformat(), commit, math.nan)
            rows.setdefault(row.key, []).append((point, row))
    return [one for found in rows.values() for one in _columns(found)]


def _started(path: Path, result: Result) -> datetime:
    try:
        return datetime.fromisoformat(str(result.provenance["started"])).astimezone(UTC)
    except (KeyError, ValueError):
        raise ResultError(f"{path}: does not say when it was measured (provenance.started)") from None


def _columns(found: Sequence[tuple[Point, Row]]) -> Iterator[Series]:
    for column in COLUMNS:
        points = [
            Point(point.file, point.started, point.commit, float(columns[column]))
            for point, row in found
            if column in (columns := row.columns()) and math.isfinite(columns[column])
        ]
        if len(points) > 1:
            row = found[0][1]
            values = [point.value for point in points]
            yield Series(row.bench, row.parameters, column, tuple(points), tuple(changes(values)))


def changes(values: Sequence[float]) -> list[Change]:
    """Where the values changed by MIN_CHANGE at least, in order. A few values can show nothing.

    Raises MissingPackage.
    """
    try:
        from otava.analysis import compute_change_points
    except ImportError as error:
        raise MissingPackage(_advice(error)) from None
    found, _ = compute_change_points(
        list(values), window_len=_WINDOW, max_pvalue=MAX_P, min_magnitude=MIN_CHANGE
    )
    made = []
    for one in sorted(found, key=lambda one: one.index):
        before, after = float(one.stats.mean_1), float(one.stats.mean_2)
        made.append(Change(int(one.index), before, after, after / before - 1, float(one.stats.pvalue)))
    return made


def _advice(error: ImportError) -> str:
    if (error.name or "").partition(".")[0] == "scipy":
        return "a history needs scipy, which is not installed: pip install 'qafel-mpi[analysis]'"
    # Its own dependencies are exact older versions of numpy and scipy, and clients of databases and chats.
    return "a history needs Apache Otava, which is not installed: pip install --no-deps apache-otava"
