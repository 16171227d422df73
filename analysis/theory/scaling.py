"""Scaling studies as measured: rates and efficiency over ranks, medians and ranges over the runs of a size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from qafel_analysis.tables.grid import Grid

from qafel_mpi.trace.reader import TraceError, open_trace


@dataclass(frozen=True)
class Point:
    """One run. seconds: from the first training's start to the last update used; virtual clock: of the whole run."""

    run: str
    algorithm: str
    driver: str
    ranks: int
    workers: int  # ranks that train: all but rank 0, and rank 0 where it is alone
    buffer_size: int
    uploads: int
    seconds: float

    @property
    def rate(self) -> float:
        """Updates a second."""
        return self.uploads / self.seconds


@dataclass(frozen=True)
class Size:
    """The runs of one size, such as its seeds. rate: updates a second; efficiency: speed-up over the ratio of
    workers; each as spread() has it."""

    algorithm: str
    driver: str
    ranks: int
    workers: int
    buffer_size: int
    runs: int
    uploads: float  # median
    seconds: float  # median
    rate: tuple[float, float, float]
    speed_up: float
    efficiency: tuple[float, float, float]


def point(path: Path) -> Point:
    """Raises TraceError where the run has no updates."""
    with open_trace(path, salvage=True) as trace:
        a, updates = trace.attributes, trace.table("updates")
        used = updates[updates["weight"] > 0]
        if not len(used):
            raise TraceError(f"{path}: no update was used; nothing to scale")
        wall = a.get("driver") == "wall"
        span = float(used["finish_s"].max() - used["start_s"].min()) if wall else float(a["seconds"])
        ranks = int(a["ranks"])
        return Point(
            run=str(path),
            algorithm=str(a["algorithm"]),
            driver=str(a["driver"]),
            ranks=ranks,
            workers=max(1, ranks - 1),
            buffer_size=int(a["buffer_size"]),
            uploads=len(used),
            seconds=span,
        )


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, smallest, largest) over the runs; nan where a run did not get there.

    Of so few runs, whose times have tails, a range is what can be said: it covers the median with 1 − 2^(1−n).
    """
    array = np.array(values)
    return float(np.median(array)), float(array.min()), float(array.max())


def measured(points: Sequence[Point]) -> list[Size]:
    """Every size, over the median of those runs of the same algorithm and clock that have the fewest ranks.

    Speed-up is the ratio of rates, so it is one formula for strong and weak scaling.
    """

    def size(p: Point) -> tuple[str, str, int, int]:
        return p.driver, p.algorithm, p.ranks, p.buffer_size

    found: list[Size] = []
    base: dict[tuple[str, str], tuple[float, int]] = {}  # rate and workers
    for (driver, algorithm, ranks, buffer_size), group in groupby(sorted(points, key=size), key=size):
        runs = list(group)
        rate, workers = spread([p.rate for p in runs]), runs[0].workers
        least, alone = base.setdefault((driver, algorithm), (rate[0], workers))
        median, low, high = (r / least * alone / workers for r in rate)
        found.append(
            Size(
                algorithm=algorithm,
                driver=driver,
                ranks=ranks,
                workers=workers,
                buffer_size=buffer_size,
                runs=len(runs),
                uploads=float(np.median([p.uploads for p in runs])),
                seconds=float(np.median([p.seconds for p in runs])),
                rate=rate,
                speed_up=rate[0] / least,
                efficiency=(median, low, high),
            )
        )
    return found


def measured_grid(points: Sequence[Point]) -> Grid:
    rows = tuple(
        (
            s.algorithm, s.driver, str(s.ranks), str(s.workers), str(s.buffer_size), str(s.runs),
            f"{s.uploads:,.0f}", f"{s.seconds:.2f}", _cell(s.rate, ".1f"), f"{s.speed_up:.2f}",
            _cell((100 * s.efficiency[0], 100 * s.efficiency[1], 100 * s.efficiency[2]), ".0f", "%"),
        )
        for s in measured(points)
    )  # fmt: skip
    return Grid(
        "Medians over the runs of a size, with the smallest and the largest. Speed-up: the rate over that of the "
        "fewest ranks. Efficiency: speed-up over the ratio of ranks that train.",
        ("algorithm", "clock", "ranks", "workers", "K", "runs", "updates", "seconds", "updates/s", "speed-up",
         "efficiency"),
        rows,
        texts=2,
    )  # fmt: skip


def _cell(values: tuple[float, float, float], digits: str, unit: str = "") -> str:
    median, low, high = (format(value, digits) for value in values)
    return f"{median}{unit}" if low == high else f"{median}{unit} ({low} to {high})"


def as_json(points: Sequence[Point]) -> list[dict[str, Any]]:
    return [
        asdict(s)
        | {
            "updates_per_second": s.rate[0],
            "efficiency": s.efficiency[0],
            "efficiency_range": s.efficiency[1:],
        }
        for s in measured(points)
    ]
