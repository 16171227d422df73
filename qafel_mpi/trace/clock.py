"""From a rank's own clock to rank 0's: offsets at the synchronisations, linear between and beyond them."""

from __future__ import annotations

import numpy as np

from qafel_mpi.trace_schema import MESSAGE_TIMES


def with_drift(clock: np.ndarray) -> np.ndarray:
    """The rows of /clock, sorted by (rank, sync), with drift filled in from one synchronisation to the next."""
    rows = np.sort(clock, order=("rank", "sync"))
    rows["drift"] = np.nan
    same = rows["rank"][1:] == rows["rank"][:-1]
    elapsed = np.diff(rows["local_s"])
    usable = same & (elapsed > 0)
    rows["drift"][1:][usable] = np.diff(rows["offset_s"])[usable] / elapsed[usable]
    return rows


def corrected(times: np.ndarray, readings: np.ndarray, origin_s: float) -> np.ndarray:
    """Seconds since `origin_s` on rank 0's clock.

    times: raw seconds of one rank, any shape. readings: that rank's rows of /clock, in order of time; with
    none the clocks are taken as equal. Between two readings the offset is interpolated, outside them the
    nearest one holds: a drift is not extrapolated from an error.
    """
    if readings.size == 0:
        return times - origin_s
    return times + np.interp(times, readings["local_s"], readings["offset_s"]) - origin_s


def correct_messages(block: np.ndarray, readings: np.ndarray, origin_s: float) -> None:
    """Bring every time of a block of one rank's /messages to rank 0's clock, in place."""
    for name in MESSAGE_TIMES:
        block[name] = corrected(block[name], readings, origin_s)
