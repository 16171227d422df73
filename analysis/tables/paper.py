"""Beside the published numbers: reproduced within the seeds' spread, or not, row by row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from qafel_analysis.tables.compare import Group
from qafel_analysis.tables.grid import NOTHING, Grid, number, spread
from qafel_analysis.tables.intervals import apart, one_more


@dataclass(frozen=True)
class Published:
    """One row of the authors' spreadsheets: uploads to the target, per repetition."""

    dataset: str
    algorithm: str
    client_bits: int
    server_bits: int
    buffer_size: int
    uploads: tuple[float, ...]
    target_accuracy: float | None
    bytes_per_upload: float
    bytes_per_broadcast: float

    @classmethod
    def of(cls, record: dict[str, Any]) -> Published:
        found = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        return cls(**found, uploads=tuple(map(float, record["uploads_to_target"])))

    @property
    def name(self) -> str:
        return f"{self.dataset}, {self.algorithm} {self.client_bits}/{self.server_bits} bits, K = {self.buffer_size}"


def published() -> tuple[str, list[Published]]:
    """(source, rows) of the bundled paper_results.json."""
    content = json.loads((files("qafel_analysis.tables") / "paper_results.json").read_text(encoding="utf-8"))
    return content["source"], [Published.of(record) for record in content["records"]]


def published_concurrency() -> dict[str, dict[int, list[float]]]:
    """Of CIFAR-10: by algorithm and trainings at a time, the uploads to the target of each repetition."""
    content = json.loads((files("qafel_analysis.tables") / "paper_results.json").read_text(encoding="utf-8"))
    return {
        name: {int(at_once): [float(n) for n in uploads] for at_once, uploads in found.items()}
        for name, found in content["cifar10_concurrency"].items()
    }


@dataclass(frozen=True)
class Row:
    """A published row, the runs of the same setting, and what the two say of each other."""

    paper: Published
    group: Group | None
    verdict: str
    difference: float | None = None  # ours / theirs - 1, of geometric means
    low: float | None = None  # 95% interval of that
    high: float | None = None


def matches(group: Group, paper: Published) -> bool:
    """The same algorithm, bits and buffer on the same data set."""
    run = group.runs[0]
    return (
        run["dataset"] == paper.dataset
        and run["algorithm"] == paper.algorithm
        and (run["uplink_bits"], run["downlink_bits"]) == (paper.client_bits, paper.server_bits)
        and run["buffer_size"] == paper.buffer_size
    )


def against(groups: Sequence[Group]) -> list[Row]:
    """Every published row with each setting of ours that it fits; rows that no run fits are there, too."""
    rows = []
    for paper in published()[1]:
        ours = [g for g in groups if matches(g, paper)]
        rows += [_judge(paper, g) for g in ours] or [Row(paper, None, "no run")]
    return rows


def _judge(paper: Published, group: Group) -> Row:
    """Reproduced: the interval of ours over theirs, geometric means, contains 1.

    With one run of ours, the interval is that of one further repetition of theirs.
    """
    ours = group.values("uploads")
    if group.target is None:
        return Row(paper, group, "the runs had no target")
    missed = len(group.runs) - len(group.reached)
    if not ours:
        return Row(paper, group, f"not reproduced: none of {missed} runs reached the target")
    found = one_more(ours[0], paper.uploads) if len(ours) == 1 else apart(ours, paper.uploads)
    if found is None:
        return Row(paper, group, "a run was at the target before its first upload")
    side = "fewer" if found.high < 1 else "more"
    inside = found.low <= 1 <= found.high
    verdict = "reproduced within the spread" if inside else f"not reproduced: {side}"
    if missed:
        verdict += f"; {missed} of {len(group.runs)} runs never reached the target"
    if paper.target_accuracy is not None and not _same_target(group, paper.target_accuracy):
        verdict += f"; the targets differ: {group.target}, theirs accuracy ≥ {paper.target_accuracy:g}"
    return Row(paper, group, verdict, *(end - 1 for end in found))


def _same_target(group: Group, accuracy: float) -> bool:
    return group.target == f"accuracy ≥ {accuracy:g}"


def paper_grid(rows: Sequence[Row]) -> Grid:
    """Published and ours side by side; message sizes by the paper's formula."""
    headings = (
        "published",
        "verdict",
        "their uploads\nto target",
        "our uploads\nto target",
        "our runs",
        "ours / theirs - 1\n[95%]",
        "their bytes\nper upload",
        "ours",
        "their bytes\nper broadcast",
        "ours",
    )
    cells = []
    for row in rows:
        run = row.group.runs[0] if row.group else None
        theirs = np.array(row.paper.uploads)
        cells.append(
            (
                row.paper.name,
                row.verdict,
                spread(float(theirs.mean()), float(theirs.std(ddof=1))),
                spread(row.group.mean("uploads"), row.group.spread("uploads")) if row.group else NOTHING,
                f"{len(row.group.reached)} of {len(row.group.runs)}" if row.group else NOTHING,
                _percent(row),
                number(row.paper.bytes_per_upload),
                number(run["paper_bytes_per_upload"]) if run else NOTHING,
                number(row.paper.bytes_per_broadcast),
                number(run["paper_bytes_per_broadcast"]) if run else NOTHING,
            )
        )
    caption = f"Beside the published numbers. Source: {published()[0]}"
    return Grid(caption, headings, tuple(cells), texts=2)


def _percent(row: Row) -> str:
    if row.difference is None or row.low is None or row.high is None:
        return NOTHING
    return f"{row.difference:+.0%} [{row.low:+.0%}, {row.high:+.0%}]"


def as_json(row: Row) -> dict[str, Any]:
    """A row as `compare --paper --json` prints it."""
    return {
        "published": row.paper.name,
        "published_uploads": list(row.paper.uploads),
        "setting": row.group.label if row.group else None,
        "uploads": row.group.values("uploads") if row.group else [],
        "runs": len(row.group.runs) if row.group else 0,
        "verdict": row.verdict,
        "difference": row.difference,
        "low": row.low,
        "high": row.high,
    }
