"""References out of results: what was measured is the target, with a bound on the side that is worse."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from qafel_mpi.bench.measuring.references import Reference
from qafel_mpi.bench.measuring.result import Row

_MORE_IS_BETTER = ("_per_s", "ratio", "accuracy", "_share")
_UNITS = {
    "_gb_per_s": "GB/s",
    "_mbit_per_s": "Mbit/s",
    "_per_s": "1/s",
    "_us": "us",
    "_s": "s",
    "_bytes": "B",
}


def headline(row: Row) -> str:
    """The column that says most of a row: its rate where it has one, else its time."""
    columns = row.columns()
    if "uploads_per_s" in columns:
        return "uploads_per_s"
    is_rate = "bandwidth" in str(row.parameters.get("operation", ""))
    return "gb_per_s" if is_rate and "gb_per_s" in columns else "median_us"


def unit(column: str) -> str:
    """The unit that a column has in its name.

    >>> unit("median_us"), unit("gb_per_s"), unit("uploads_per_s"), unit("ratio")
    ('us', 'GB/s', '1/s', '1')
    """
    return next((name for ending, name in _UNITS.items() if f"_{column}".endswith(ending)), "1")


def measured(rows: Sequence[Row], system: str, within: float, columns: Sequence[str] = ()) -> list[Reference]:
    """A reference for every row that has one of the columns; no columns: for each row's headline.

    within: how much worse a value may be, as a fraction of what was measured (of one unit where that is 0). Where
    more is better that is the lower bound, else the upper one. Of results that have the same row, such as those of
    several bindings, the worst is the target. Raises ValueError for a column that no row has.
    """
    found: dict[tuple[Any, ...], Reference] = {}
    for row in rows:
        values = row.columns()
        for column in columns or [headline(row)]:
            if isinstance(values.get(column), int | float):
                made = _reference(row, column, float(values[column]), system, within)
                found[*row.key, column] = _worse(made, found.get((*row.key, column), made))
    seen = {reference.column for reference in found.values()}
    if absent := [column for column in columns if column not in seen]:
        raise ValueError(f"no row has a number in the column {absent[0]}")
    return list(found.values())


def _worse(a: Reference, b: Reference) -> Reference:
    """The one of two for the same row and column that is easier to hold."""
    worst = max if a.upper is not None else min
    return worst(a, b, key=lambda reference: reference.target)


def _reference(row: Row, column: str, value: float, system: str, within: float) -> Reference:
    more_is_better = column.endswith(_MORE_IS_BETTER)
    return Reference(
        system=system,
        bench=row.bench,
        where={name: given for name, given in row.parameters.items() if given is not None},
        column=column,
        target=float(f"{value:.6g}"),
        lower=-within if more_is_better else None,
        upper=None if more_is_better else within,
        unit=unit(column),
    )


def as_toml(references: Sequence[Reference]) -> str:
    """A file that references.load reads."""
    return "\n".join(_table(reference) for reference in references)


def _table(reference: Reference) -> str:
    lines = ["[[reference]]"]
    for name, value in reference.model_dump(exclude_none=True).items():
        lines.append(f"{name} = {_value(value)}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """A string of JSON is one of TOML, and so are numbers that are finite."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else json.dumps(name)
