"""Seconds per server step by the rate of the link: a row a run of the suite link-rates.

python docs/results/link_rates.py docs/results/findings-link-rates.json FOLDER/RUN.h5...     (record.sh runs it)

A FOLDER is named as the rate (`100mbit`), or `free` or `free-again` where the link was not shaped.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from qafel_analysis.commands.record import of_runs
from qafel_analysis.theory.pace import pace

from qafel_mpi.trace.reader import TraceError, open_trace

NOTE = (
    "a round is a seed at all rates, one after the other; each was started with "
    "python -m tests.system.namespaces --hosts 4 -n 4 --rate RATE"
)
_UNITS = {"mbit": 1.0, "gbit": 1000.0}


def mbit(folder: str) -> float | None:
    """
    >>> mbit("300mbit"), mbit("1gbit"), mbit("free"), mbit("free-again")
    (300.0, 1000.0, None, None)
    """
    if folder in ("free", "free-again"):
        return None
    found = re.fullmatch(r"(\d+)(mbit|gbit)", folder)
    if found is None:
        raise SystemExit(f"{folder}: a folder of runs is named as their rate, such as 100mbit, or free")
    return int(found[1]) * _UNITS[found[2]]


def measured(path: Path) -> dict[str, Any]:
    variant, _, seed = path.stem.rpartition("-seed")
    with open_trace(path) as trace:
        digest = trace.digest("x")
        try:
            per_step: float | None = pace(trace).per_step
        except TraceError:  # too slow for two server steps
            per_step = None
    return {
        "variant": variant,
        "seed": int(seed),
        "mbit": mbit(path.parent.name),
        "per_step": per_step,
        "x_digest": digest,
    }


if __name__ == "__main__":
    of_runs("link_rates", measured, NOTE)
