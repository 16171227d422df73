"""Two result files row by row: how many times as long, with an interval; only where the machines are alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qafel_mpi.bench.check import doubted
from qafel_mpi.bench.result import Result, Row
from qafel_mpi.bench.timing import Interval

# Times of hosts that differ in these say nothing about the program.
# hosts: name, processor, memory and number of ranks of each; binding: every rank's cores, and who has bound it;
# interconnect: network hardware, and what the MPI library was told, such as how ranks wait.
ALIKE = ("mpi_library", "thread_level", "hosts", "binding", "interconnect")
SHOWN = 3  # differing hosts, and ranks
RESAMPLES = 2000
SEED = 20230800  # of the bootstrap: the same two files always give the same intervals


@dataclass(frozen=True)
class Pair:
    """One row that both files have. change: B's median time over A's, above 1 = B is slower."""

    bench: str
    parameters: Mapping[str, Any]
    a_us: float
    b_us: float
    change: float
    change_interval: Interval
    in_doubt: bool = False  # bench/check.py does not believe the one time or the other

    @property
    def verdict(self) -> str:
        low, high = self.change_interval
        doubt = ", times in doubt" if self.in_doubt else ""
        if low <= 1 <= high:
            return f"no difference seen{doubt}"
        change = f"{self.change:.2f} times slower" if low > 1 else f"{1 / self.change:.2f} times faster"
        return change + doubt


def unlike(a: Result, b: Result) -> list[str]:
    """What of the machines differs, a line each; [] where the two may be compared."""
    return [line for name in ALIKE for line in _unlike(name, a.provenance.get(name), b.provenance.get(name))]


def _unlike(name: str, a: Any, b: Any) -> list[str]:
    if a == b:
        return []
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return [f"{name}: {len(a)} against {len(b)}"]
        pairs = [(i, x, y) for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
        lines = [line for i, x, y in pairs[:SHOWN] for line in _unlike(f"{name}[{i}]", x, y)]
        return lines + ([f"{name}: {len(pairs) - SHOWN} more differ"] if len(pairs) > SHOWN else [])
    if isinstance(a, dict) and isinstance(b, dict):
        keys = list(a | b)
        return [line for key in keys for line in _unlike(f"{name}.{key}", a.get(key), b.get(key))]
    return [f"{name}: {a!r} against {b!r}"]


def compare(a: Result, b: Result) -> tuple[list[Pair], list[Row]]:
    """(the rows that both have, in A's order; the rows that only one has)."""
    ours, theirs = ({row.key: row for row in result.rows} for result in (a, b))
    pairs = [_pair(row, theirs[key]) for key, row in ours.items() if key in theirs]
    alone = [row for key, row in (ours | theirs).items() if (key in ours) != (key in theirs)]
    return pairs, alone


def _pair(a: Row, b: Row) -> Pair:
    change = b.ours.median / a.ours.median
    interval = ratio_of_medians(b.ours.values, a.ours.values)
    return Pair(
        a.bench,
        a.parameters,
        1e6 * a.ours.median,
        1e6 * b.ours.median,
        change,
        interval,
        in_doubt=doubted(a, "time") or doubted(b, "time"),
    )


def ratio_of_medians(over: np.ndarray, under: np.ndarray) -> Interval:
    """95% bootstrap interval of median(over) / median(under), two independent series."""
    rng = np.random.default_rng(SEED)

    def medians(values: np.ndarray) -> np.ndarray:
        return np.array([np.median(rng.choice(values, len(values))) for _ in range(RESAMPLES)])

    low, high = np.quantile(medians(over) / medians(under), [0.025, 0.975])
    return float(low), float(high)
