"""Scaling studies as measured: rates and efficiency over ranks, medians and ranges over the runs of a size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from qafel_analysis.read.settings import Settings, alike, labels, settings, telling
from qafel_analysis.tables.grid import Grid

from qafel_mpi.trace.reader import Trace, TraceError

# What grows with the ranks in a study, of strong or of weak scaling.
_WITH_RANKS = (
    "ranks", "transport.ranks", "task.clients", "task.examples", "clock.concurrency", "server.buffer_size",
    "buffer_size", "stop.",
)  # fmt: skip


class StudyError(ValueError):
    """The runs are no scaling study; the message says why."""


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
    settings: Settings = field(default_factory=dict)

    @property
    def study(self) -> Settings:
        """What the runs of one study have in common: all but what may grow with the ranks."""
        own = {k: v for k, v in self.settings.items() if not k.startswith(_WITH_RANKS)}
        return own | {"algorithm": self.algorithm}

    @property
    def rate(self) -> float:
        """Updates a second."""
        return self.uploads / self.seconds


@dataclass(frozen=True)
class Size:
    """The runs of one size, such as its seeds. rate: updates a second; efficiency: speed-up over the ratio of
    workers; each as spread() has it. study: the algorithm, and what tells this study from others of it."""

    study: str
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


def point(trace: Trace) -> Point:
    """Raises TraceError where the run has no updates, or its real duration is not known."""
    a, updates = trace.attributes, trace.table("updates")
    used = updates[updates["weight"] > 0]
    if not len(used):
        raise TraceError(f"{trace.path}: no update was used; nothing to scale")
    wall = a.get("driver") == "wall"
    if not wall and "seconds" not in a:
        raise TraceError(f"{trace.path}: killed, so it does not say how long it took; nothing to scale")
    ranks = int(a["ranks"])
    return Point(
        run=str(trace.path),
        algorithm=str(a["algorithm"]),
        driver=str(a["driver"]),
        ranks=ranks,
        workers=max(1, ranks - 1),
        buffer_size=int(a["buffer_size"]),
        uploads=len(used),
        seconds=float(used["finish_s"].max() - used["start_s"].min()) if wall else float(a["seconds"]),
        settings=settings(trace.experiment, a),
    )


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, smallest, largest) over the runs; nan where a run did not get there.

    Of so few runs, whose times have tails, a range is what can be said: it covers the median with 1 − 2^(1−n).
    """
    array = np.array(values)
    return float(np.median(array)), float(array.min()), float(array.max())


def measured(points: Sequence[Point]) -> list[Size]:
    """Every size, over the median of those runs of the same study that have the fewest ranks.

    Speed-up is the ratio of rates, so it is one formula for strong and weak scaling. Raises StudyError where two
    settings of one study have as many ranks: it is not known then which of them grows into which.
    """
    found: list[Size] = []
    in_order = sorted(points, key=lambda p: (p.driver, p.algorithm, p.ranks))
    for _, of_a_clock in groupby(in_order, key=lambda p: p.driver):
        studies = alike(list(of_a_clock), lambda p: p.study)
        names = labels([own[0].algorithm for own in studies], [own[0].study for own in studies])
        for name, own in zip(names, studies, strict=True):
            found += _sizes(name, own)
    return found


def _sizes(name: str, points: Sequence[Point]) -> list[Size]:
    """Of one study, from the fewest ranks on."""
    found: list[Size] = []
    for ranks, group in groupby(points, key=lambda p: p.ranks):
        runs = list(group)
        several = alike(runs, lambda p: p.settings)
        if len(several) > 1:
            ways = " and ".join(telling([own[0].settings for own in several]))
            raise StudyError(f"{name}: two settings of {ranks} ranks, {ways}: give one study at a time")
        rate, workers = spread([p.rate for p in runs]), runs[0].workers
        least, alone = (found[0].rate[0], found[0].workers) if found else (rate[0], workers)
        median, low, high = (r / least * alone / workers for r in rate)
        found.append(
            Size(
                study=name,
                algorithm=runs[0].algorithm,
                driver=runs[0].driver,
                ranks=ranks,
                workers=workers,
                buffer_size=runs[0].buffer_size,
                runs=len(runs),
                uploads=float(np.median([p.uploads for p in runs])),
                seconds=float(np.median([p.seconds for p in runs])),
                rate=rate,
                speed_up=rate[0] / least,
                efficiency=(median, low, high),
            )
        )
    return found


def measured_grid(sizes: Sequence[Size]) -> Grid:
    rows = tuple(
        (
            s.study, s.driver, str(s.ranks), str(s.workers), str(s.buffer_size), str(s.runs),
            f"{s.uploads:,.0f}", f"{s.seconds:.2f}", _cell(s.rate, ".1f"), f"{s.speed_up:.2f}",
            _cell((100 * s.efficiency[0], 100 * s.efficiency[1], 100 * s.efficiency[2]), ".0f", "%"),
        )
        for s in sizes
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


def as_json(sizes: Sequence[Size]) -> list[dict[str, Any]]:
    return [
        asdict(s)
        | {
            "updates_per_second": s.rate[0],
            "efficiency": s.efficiency[0],
            "efficiency_range": s.efficiency[1:],
        }
        for s in sizes
    ]
