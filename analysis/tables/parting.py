"""Where two traces of one experiment part: in the order of updates, in a payload, in the server's steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from qafel_analysis.tables.grid import NOTHING, Grid

from qafel_mpi.trace.reader import Trace
from qafel_mpi.trace_schema import taken

MEASURED = ("loss", "step_norm", "gap")  # of /steps
ORDER = ("client", "participation", "start_version")


@dataclass(frozen=True)
class Parting:
    """Numbers of rows from 0, of uploads in /updates and versions in /steps; None where the two never part.

    order: the first upload that is another client's, or from another version. payload: the first upload of the same
    training with another payload, by digest; None also where a trace has no digests (compared: how many were).
    step: the first version with another step. settings: what differs in the experiments.
    """

    uploads: tuple[int, int]
    compared: int
    order: int | None
    payload: int | None
    rank: int | None  # that sent that payload, in the first trace
    client: int | None
    step: int | None
    same_end: bool | None
    settings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def parting(a: Trace, b: Trace) -> Parting:
    """Of two open traces. Raises TraceError where a table can't be read."""
    ours, theirs = (taken(trace.table("updates")) for trace in (a, b))
    count = min(len(ours), len(theirs))
    ours_now, theirs_now = ours[:count], theirs[:count]
    apart = np.zeros(count, dtype=bool)
    for name in ORDER:
        apart |= ours_now[name] != theirs_now[name]
    order = _first(apart)
    if order is None and len(ours) != len(theirs):
        order = count
    known = (ours_now["digest"] != 0) & (theirs_now["digest"] != 0)
    payload = _first(known & ~apart & (ours_now["digest"] != theirs_now["digest"]))
    digests = (a.digest("x"), b.digest("x"))
    return Parting(
        uploads=(len(ours), len(theirs)),
        compared=int((known & ~apart).sum()),
        order=order,
        payload=payload,
        rank=None if payload is None else int(ours["rank"][payload]),
        client=None if payload is None else int(ours["client"][payload]),
        step=_first_step(a, b),
        same_end=digests[0] == digests[1] if all(digests) else None,
        settings=tuple(_different(a.experiment, b.experiment)),
    )


def steps_apart(a: Trace, b: Trace) -> dict[str, np.ndarray]:
    """By version, for those that both have: version, and |difference| of each measured quantity."""
    ours, theirs = _steps(a, b)
    found = {"version": ours["version"]}
    return found | {name: np.abs(ours[name] - theirs[name]) for name in MEASURED}


def parting_grid(found: Parting) -> Grid:
    """As a table of one row a question."""
    rows = (
        ("uploads of the two", f"{found.uploads[0]:,} and {found.uploads[1]:,}"),
        ("payloads that could be compared", f"{found.compared:,}"),
        ("first upload in another order", _number(found.order)),
        ("first upload with another payload", _payload(found)),
        ("first server step that differs", _number(found.step)),
        ("the same x at the end", {True: "yes", False: "no", None: NOTHING}[found.same_end]),
        ("settings that differ", ", ".join(found.settings) or "none"),
    )
    return Grid("Where the two runs part", ("", "number"), rows, texts=2)


def _payload(found: Parting) -> str:
    if found.payload is None:
        return NOTHING
    return f"{found.payload}, of client {found.client} (rank {found.rank})"


def _number(value: int | None) -> str:
    return NOTHING if value is None else str(value)


def _first(where: np.ndarray) -> int | None:
    return int(np.argmax(where)) if where.any() else None


def _steps(a: Trace, b: Trace) -> tuple[np.ndarray, np.ndarray]:
    ours, theirs = a.table("steps"), b.table("steps")
    count = min(len(ours), len(theirs))
    return ours[:count], theirs[:count]


def _first_step(a: Trace, b: Trace) -> int | None:
    ours, theirs = _steps(a, b)
    other = np.zeros(len(ours), dtype=bool)
    for name in MEASURED:
        both = ~np.isnan(ours[name]) & ~np.isnan(theirs[name])
        other |= both & (ours[name] != theirs[name])
    at = _first(other)
    return None if at is None else int(ours["version"][at])


def _different(a: Any, b: Any, path: str = "") -> list[str]:
    """The dotted names of settings whose values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            name
            for key in sorted(a.keys() | b.keys())
            for name in _different(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if a == b else [path]
