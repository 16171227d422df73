"""Two sides of result files row by row: how many times as long, with an interval; only where the machines are alike.

A side is one launch or several. What differs from launch to launch (where memory lies, which cores, who else is
there) is often more than what differs within one: intervals have it only where a side has several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qafel_mpi.bench.measuring.check import doubted
from qafel_mpi.bench.measuring.result import Result, Row
from qafel_mpi.bench.measuring.timing import Interval

# Times of hosts that differ in these say nothing about the program.
# hosts: name, processor, memory and number of ranks of each; binding: every rank's cores, and who has bound it;
# interconnect: network hardware, and what the MPI library was told, such as how ranks wait.
ALIKE = ("mpi_library", "thread_level", "hosts", "binding", "interconnect")
SHOWN = 3  # differing hosts, and ranks
LAUNCHES = 5  # below, a bootstrap over them is no 95%
RESAMPLES = 2000
SEED = 20230800  # of the bootstrap: the same two files always give the same intervals


@dataclass(frozen=True)
class Pair:
    """One row that both sides have. change: B's median time over A's, above 1 = B is slower.

    Of several launches: the median of their medians.
    """

    bench: str
    parameters: Mapping[str, Any]
    a_us: float
    b_us: float
    change: float
    change_interval: Interval
    in_doubt: bool = False  # bench/check.py finds one of the two times unreliable

    @property
    def verdict(self) -> str:
        low, high = self.change_interval
        doubt = ", times in doubt" if self.in_doubt else ""
        if low <= 1 <= high:
            return f"no difference seen{doubt}"
        change = f"{self.change:.2f} times slower" if low > 1 else f"{1 / self.change:.2f} times faster"
        return change + doubt


def unlike(results: Sequence[Result]) -> list[str]:
    """What of the machines differs from the first's, a line each; [] where all may be compared."""
    first, *others = (result.provenance for result in results)
    lines = [
        line for about in others for name in ALIKE for line in _unlike(name, first.get(name), about.get(name))
    ]
    return list(dict.fromkeys(lines))


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


def compare(a: Sequence[Result], b: Sequence[Result]) -> tuple[list[Pair], list[Row]]:
    """(the rows that both sides have, in A's order; the rows that only one has). A launch of a side may lack some."""
    ours, theirs = _launches(a), _launches(b)
    pairs = [_pair(rows, theirs[key]) for key, rows in ours.items() if key in theirs]
    alone = [rows[0] for key, rows in (ours | theirs).items() if (key in ours) != (key in theirs)]
    return pairs, alone


def _launches(side: Sequence[Result]) -> dict[tuple[Any, ...], list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for result in side:
        for key, row in {row.key: row for row in result.rows}.items():
            found.setdefault(key, []).append(row)
    return found


def _pair(a: Sequence[Row], b: Sequence[Row]) -> Pair:
    a_s, b_s = (float(np.median([row.ours.median for row in side])) for side in (a, b))
    return Pair(
        a[0].bench,
        a[0].parameters,
        1e6 * a_s,
        1e6 * b_s,
        b_s / a_s,
        ratio_of_medians([row.ours.values for row in b], [row.ours.values for row in a]),
        in_doubt=any(doubted(row, "time") for row in (*a, *b)),
    )


def caveats(a: int, b: int, rows: int) -> list[str]:
    """What the intervals of so many rows, from so many launches a side, don't say."""
    lines = [f"one interval in 20 misses by chance alone: about {rows / 20:.1f}"] if rows > 1 else []
    if min(a, b) == 1:
        lines.append(
            f"launches: {a} of A, {b} of B; what differs from launch to launch is not in the intervals of a single "
            "one: give folders of several"
        )
    elif min(a, b) < LAUNCHES:
        lines.append(f"launches: {a} of A, {b} of B; with fewer than {LAUNCHES} the intervals are too narrow")
    return lines


def ratio_of_medians(over: Sequence[np.ndarray], under: Sequence[np.ndarray]) -> Interval:
    """95% bootstrap interval of the ratio of two sides' medians of their launches' medians.

    Launches are drawn, and samples within each that was drawn.
    """
    rng = np.random.default_rng(SEED)

    def medians(side: Sequence[np.ndarray]) -> np.ndarray:
        each = np.array(
            [[np.median(rng.choice(values, len(values))) for _ in range(RESAMPLES)] for values in side]
        )
        drawn = rng.integers(0, len(side), each.shape)
        return np.median(np.take_along_axis(each, drawn, axis=0), axis=0)

    low, high = np.quantile(medians(over) / medians(under), [0.025, 0.975])
    return float(low), float(high)
