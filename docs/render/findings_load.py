"""Blocks of docs/findings.md on how a run is loaded: the budget of bytes that all algorithms share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from qafel_analysis.tables.grid import size

from docs.render.headline import setting
from docs.render.pages import table
from docs.render.records import content, interval
from docs.render.verdicts import Check, Finding, at_least, mean, pick

LARGEST_BUDGET = 1e7  # bytes; with more the best reach the target, at which runs stop


# --- 13: one budget -----------------------------------------------------------------------------------


def budget() -> Finding:
    """Accuracy once so many payload bytes went up and down, all algorithms of the headline."""
    found = content("findings-budget")
    budgets = found[0]["x"]
    own = pick(found, "qafel", "eden 1 bits up")
    rivals = [one for one in found if not one["algorithm"].startswith("qafel")]
    checks = [_lead(own, rivals, column, at) for column, at in enumerate(budgets) if at <= LARGEST_BUDGET]
    ordered = sorted(found, key=lambda one: -_accuracy(one, budgets.index(5e6)))
    lines = [
        (setting(one["setting"]), *(f"{_accuracy(one, column):.1%}" for column in range(len(budgets))))
        for one in ordered
    ]
    header = ("", *(size(at) for at in budgets))
    return Finding(checks, table(header, lines, right=range(1, len(header))), ("findings-budget",))


def _accuracy(one: Mapping[str, Any], column: int) -> float:
    """Mean over seeds; a run that was not evaluated yet has the accuracy of none."""
    return fmean(values[column] or 0.0 for values in one["values"])


def _lead(own: Mapping[str, Any], rivals: Sequence[Mapping[str, Any]], column: int, at: float) -> Check:
    """Ours against the best of the others by its mean: the difference of a seed's two runs."""
    best = max(rivals, key=lambda one: _accuracy(one, column))
    pairs = zip(own["values"], best["values"], strict=True)
    lead = mean([100 * ((a[column] or 0.0) - (b[column] or 0.0)) for a, b in pairs])
    return Check(
        f"With {size(at)}, QAFeL with eden at 1 bit is more accurate than the best of the others",
        f"Over {setting(best['setting'])}: {interval(lead)} percentage points",
        at_least(lead, 0.0),
    )
