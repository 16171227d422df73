"""Results and references as ReFrame's performance variables, with the same bounds (jobs/site/reframe_qafel.py).

ReFrame's tuple is (target, lower, upper, unit). Its fractions mean what ours do, also for a target of 0 or below, but
it takes none that goes beyond 0: a lower bound under 0 around a target above it, or the reverse. Those are given
around a target of 0, where both are absolute.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from qafel_mpi.bench.measuring.references import Reference, idle
from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.targets import headline, unit
from qafel_mpi.config_text import ConfigError

Tuple = tuple[float, float | None, float | None, str]


def reframe(reference: Reference) -> Tuple:
    """The tuple with which ReFrame judges every value as `Reference.problem` does."""
    target, lower, upper = reference.target, reference.lower, reference.upper
    beyond = (target > 0 and lower is not None and lower < -1) or (
        target < 0 and upper is not None and upper > 1
    )
    if beyond:
        low, high = reference.bounds()
        target, lower, upper = 0.0, _finite(low), _finite(high)
    return target, lower, upper, reference.unit


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None


def variables(rows: Sequence[Row], references: Sequence[Reference], system: str) -> dict[str, dict[str, Any]]:
    """Name -> value, unit and reference (None: not judged). Every row's headline, and every column with a reference.

    Raises ConfigError for references of this system that mean none of the rows or no column of them: in ReFrame a
    reference whose name is misspelt judges nothing, and says so nowhere.
    """
    if wrong := idle(references, rows, system):
        raise ConfigError(wrong)
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        means = [reference for reference in references if reference.means(row, system)]
        judged = [(reference.column, reference.unit, reframe(reference)) for reference in means]
        column = headline(row)
        alone = [] if column in {name for name, _, _ in judged} else [(column, unit(column), None)]
        for name, in_unit, judge in [*judged, *alone]:
            entry = {"value": float(row.columns()[name]), "unit": in_unit, "reference": judge}
            found[_unused(_name(row, name), found)] = entry
    return found


def _name(row: Row, column: str) -> str:
    """What ReFrame takes as a name: "latency_bytes8_full_median_us"."""
    words = [str(v) if isinstance(v, str) else f"{k}{v}" for k, v in row.parameters.items() if v is not None]
    return re.sub(r"\W+", "_", "_".join([*words, column]))


def _unused(name: str, taken: dict[str, Any]) -> str:
    """The name, with a number where two references judge one column."""
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free
