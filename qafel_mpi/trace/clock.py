"""From a rank's own clock to rank 0's: offsets at the synchronisations, linear between them."""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass

import numpy as np

from qafel_mpi.trace_schema import OWN_TIMES

# Seconds a second by which a computer's clock may drift away from rank 0's where no reading follows: two quartz
# clocks, each good to 50 parts in a million.
WANDER = 1e-4


@dataclass(frozen=True)
class RankClock:
    """One rank's clock: knots of a line, in order of time."""

    local_s: np.ndarray  # the rank's own clock
    offset_s: np.ndarray  # rank 0's minus it
    error_bound_s: np.ndarray
    origin_s: float  # when the run began, on rank 0's clock
    wander: float = WANDER

    def corrected(self, times: np.ndarray) -> np.ndarray:
        """Seconds since the run began on rank 0's clock. times: raw seconds of this rank, any shape.

        Outside the readings the nearest offset holds: a drift is not extrapolated from an error.
        """
        return times + np.interp(times, self.local_s, self.offset_s) - self.origin_s

    def error_s(self, times: np.ndarray) -> np.ndarray:
        """How wrong corrected times may be. times: seconds since the run began on rank 0's clock.

        Between two readings it is taken as given that the drift is linear; outside them it grows by `wander`.
        """
        at = self.local_s + self.offset_s - self.origin_s
        outside_s = np.maximum(at[0] - times, 0) + np.maximum(times - at[-1], 0)
        return np.interp(times, at, self.error_bound_s) + self.wander * outside_s


class Clocks:
    """Every rank's clock, from the rows of /clock."""

    def __init__(self, clock: np.ndarray, origin_s: float):
        self.origin_s = origin_s
        self._by_rank = {int(own["rank"][0]): _settled(own, origin_s) for own in _by_rank(clock)}

    def of(self, rank: int) -> RankClock:
        """Where a rank has no reading, its clock is taken as rank 0's, and nothing is known of the error."""
        if rank == 0:
            return RankClock(np.zeros(1), np.zeros(1), np.zeros(1), self.origin_s, wander=0.0)
        unknown = RankClock(np.zeros(1), np.zeros(1), np.full(1, np.nan), self.origin_s)
        return self._by_rank.get(rank, unknown)


def _by_rank(clock: np.ndarray) -> list[np.ndarray]:
    usable = np.isfinite(clock["local_s"]) & np.isfinite(clock["offset_s"]) & (clock["error_bound_s"] >= 0)
    rows = _in_order(clock[usable])
    begins = np.flatnonzero(np.diff(rows["rank"], prepend=-1))
    return np.split(rows, begins)[1:]


def _settled(rows: np.ndarray, origin_s: float) -> RankClock:
    """What a rank's readings say together. The first and the last stand; of the others the best come first.

    A reading is an interval, offset ± bound, and so is the line between its neighbours among the better ones. Where
    the two meet, the offset lies in what they share; where they don't, the drift was not linear, and the reading
    holds.
    """
    readings = [
        (float(row["local_s"]), float(row["offset_s"]), float(row["error_bound_s"]))
        for row in rows[np.argsort(rows["local_s"], kind="stable")]
    ]
    knots = readings[:1] if readings[0][0] == readings[-1][0] else [readings[0], readings[-1]]
    for local_s, offset_s, bound_s in sorted(readings[1:-1], key=lambda reading: reading[2]):
        place = bisect(knots, local_s, key=lambda knot: knot[0])
        if knots[place - 1][0] == local_s:
            continue
        line_s, error_s = _line(knots[place - 1], knots[place], local_s)
        low, high = max(line_s - error_s, offset_s - bound_s), min(line_s + error_s, offset_s + bound_s)
        if low <= high:
            offset_s, bound_s = (low + high) / 2, min(bound_s, error_s)
        knots.insert(place, (local_s, offset_s, bound_s))
    at, offsets, bounds = (np.array(column) for column in zip(*knots, strict=True))
    return RankClock(at, offsets, bounds, origin_s)


Knot = tuple[float, float, float]  # local time, offset, error bound


def _line(before: Knot, after: Knot, local_s: float) -> tuple[float, float]:
    """(offset, error) that the knots on both sides say for this time."""
    share = (local_s - before[0]) / (after[0] - before[0])
    return (1 - share) * before[1] + share * after[1], (1 - share) * before[2] + share * after[2]


def with_drift(clock: np.ndarray) -> np.ndarray:
    """The rows of /clock, sorted by (rank, sync), with drift filled in from one synchronisation to the next."""
    rows = _in_order(clock)
    rows["drift"] = np.nan
    same = rows["rank"][1:] == rows["rank"][:-1]
    elapsed = np.diff(rows["local_s"])
    usable = same & (elapsed > 0)
    rows["drift"][1:][usable] = np.diff(rows["offset_s"])[usable] / elapsed[usable]
    return rows


def _in_order(clock: np.ndarray) -> np.ndarray:
    """A copy, by rank and then by synchronisation."""
    return clock[np.lexsort((clock["sync"], clock["rank"]))]


def correct(table: str, block: np.ndarray, clock: RankClock) -> None:
    """Bring every time of a block of one rank's table to rank 0's clock, in place; for the tables of OWN_TIMES."""
    for name in OWN_TIMES[table]:
        block[name] = clock.corrected(block[name])
