"""From a rank's own clock to rank 0's: offsets at the synchronisations, linear between them."""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass

import numpy as np

from qafel_mpi.trace_schema import MESSAGE_TIMES

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
    """What a rank's readings say together. The best come first; a worse one counts as far as it contradicts them.

    A reading is an interval, offset ± bound, and so is the line between its better neighbours. Where the two
    meet, the offset lies in what they share; where they don't, the drift was not linear, and the reading holds.
    """
    at: list[float] = []
    offsets: list[float] = []
    bounds: list[float] = []
    for row in np.argsort(rows["error_bound_s"], kind="stable"):
        local_s, offset_s, bound_s = (
            float(rows[name][row]) for name in ("local_s", "offset_s", "error_bound_s")
        )
        place = bisect(at, local_s)
        if place and at[place - 1] == local_s:
            continue
        if at:
            line_s, error_s = _line(at, offsets, bounds, place, local_s)
            low, high = max(line_s - error_s, offset_s - bound_s), min(line_s + error_s, offset_s + bound_s)
            if low <= high:
                offset_s, bound_s = (low + high) / 2, min(bound_s, error_s)
        for knots, value in ((at, local_s), (offsets, offset_s), (bounds, bound_s)):
            knots.insert(place, value)
    return RankClock(np.array(at), np.array(offsets), np.array(bounds), origin_s)


def _line(
    at: list[float], offsets: list[float], bounds: list[float], place: int, local_s: float
) -> tuple[float, float]:
    """(offset, error) that the knots on both sides of `place` say for this time."""
    if place in (0, len(at)):
        end = min(place, len(at) - 1)
        return offsets[end], bounds[end] + WANDER * abs(local_s - at[end])
    before, after = place - 1, place
    share = (local_s - at[before]) / (at[after] - at[before])
    return (
        (1 - share) * offsets[before] + share * offsets[after],
        (1 - share) * bounds[before] + share * bounds[after],
    )


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


def correct_messages(block: np.ndarray, clock: RankClock) -> None:
    """Bring every time of a block of one rank's /messages to rank 0's clock, in place."""
    for name in MESSAGE_TIMES:
        block[name] = clock.corrected(block[name])
