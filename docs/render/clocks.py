"""A block of docs/results.md: one population on both clocks."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from docs.render.pages import table
from docs.render.records import content, digits, origin

_DATA = {"digits": "clocks", "Fashion-MNIST": "clocks-fashion-mnist"}
_CLOCKS = ("wall", "virtual")


def clocks() -> str:
    """Uploads to the target on both clocks, by data set, and whether they agree."""
    lines, verdicts = [], []
    for words, name in _DATA.items():
        runs = {clock: [run for run in content(name) if run["driver"] == clock] for clock in _CLOCKS}
        for clock, found in runs.items():
            reached = [run["uploads_to_target"] for run in found if run["uploads_to_target"] is not None]
            lines.append(
                (
                    words,
                    clock,
                    _counts(reached),
                    ", ".join(f"{count:,}" for count in sorted(reached)),
                    digits(median(run["mean_staleness"] for run in found)),
                    f"{len(reached)} of {len(found)}",
                )
            )
        verdicts.append(_verdict(words, *(_uploads(found) for found in runs.values())))
    header = (
        "data",
        "clock",
        "uploads to the target",
        "in order, a seed each",
        "mean staleness",
        "runs that reached it",
    )
    return f"{table(header, lines, right=(2, 3, 4))}\n\n{' '.join(verdicts)}\n\n{origin(*_DATA.values())}"


def _uploads(runs: Sequence[dict[str, Any]]) -> list[int]:
    return [run["uploads_to_target"] for run in runs if run["uploads_to_target"] is not None]


def _counts(uploads: Sequence[int]) -> str:
    return f"{median(uploads):,.0f} ({min(uploads):,} to {max(uploads):,})" if uploads else "–"


def _verdict(words: str, wall: Sequence[int], virtual: Sequence[int]) -> str:
    """Whether each clock's median lies within the other's spread over seeds.

    >>> _verdict("digits", [8, 10, 12], [9, 11, 14])
    "digits: the median of each clock lies within the other's spread; virtual over wall, medians: 1.10."
    >>> _verdict("digits", [8, 10, 12], [11, 14, 15])
    "digits: the wall clock's median lies below the virtual clock's spread, and the virtual clock's above the wall \
clock's; virtual over wall, medians: 1.40."
    """
    if not wall or not virtual:
        return f"{words}: no run of a clock reached the target."
    places = (_place(median(wall), virtual), _place(median(virtual), wall))
    over = f"virtual over wall, medians: {digits(median(virtual) / median(wall))}."
    if places == ("within", "within"):
        return f"{words}: the median of each clock lies within the other's spread; {over}"
    return (
        f"{words}: the wall clock's median lies {places[0]} the virtual clock's spread, and the virtual clock's "
        f"{places[1]} the wall clock's; {over}"
    )


def _place(value: float, spread: Sequence[int]) -> str:
    if value < min(spread):
        return "below"
    return "above" if value > max(spread) else "within"
