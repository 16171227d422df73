"""Benchmark results without their samples: the rows of several launches of one command, side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from qafel_analysis.tables.grid import NOTHING, Grid, number

from qafel_mpi.trace.reader import TraceError

_SERIES = ("values_us", "warmups_us", "reference_values_us", "reference_warmups_us")
_WORDS = ("bench", "reference", "reduction")  # columns that say the same in every launch
_SHOWN = {
    "median_us": "median, µs",
    "gb_per_s": "GB/s",
    "updates_per_s": "updates/s",
    "uploads_per_s": "uploads/s",
    "ratio": "reference / ours",
    "extra_us": "extra, µs",
}

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of one file: {bench, parameters, reference, reduction, launches: [its columns]}. Raises TraceError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if reason := content.get("incomplete"):
            raise TraceError(f"{path}: incomplete: {reason}")
        return [_row(row) for row in content["rows"]]
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise TraceError(f"{path}: not a result of qafel-mpi bench (no JSON: {error})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise TraceError(f"{path}: not a result of qafel-mpi bench (it has no rows of one)") from error


def _row(row: dict[str, Any]) -> Row:
    parameters = row["row"]["parameters"]
    left_out = {*_SERIES, *_WORDS, *parameters, "row"}
    return {
        "bench": row["bench"],
        "parameters": parameters,
        "reference": row.get("reference", ""),
        "reduction": row["reduction"],
        "launches": [{name: value for name, value in row.items() if name not in left_out}],
    }


def rows(files: Sequence[Sequence[Row]]) -> list[Row]:
    """Rows of the same benchmark and parameters as one, with a launch of each file; in the order of their coming."""
    found: dict[str, Row] = {}
    for row in (row for file in files for row in file):
        key = json.dumps([row["bench"], row["parameters"], row["reference"]], sort_keys=True)
        if key in found:
            found[key]["launches"] += row["launches"]
        else:
            found[key] = row | {"launches": list(row["launches"])}
    return list(found.values())


def values(row: Row, column: str) -> list[float]:
    """One number a launch that has the column."""
    return [float(one[column]) for one in row["launches"] if one.get(column) is not None]


def spread(numbers: Sequence[float], digits: int = 3) -> str:
    """The median of some launches, and the smallest and largest where they differ.

    >>> spread([1.0]), spread([1.25, 1.5, 1.0]), spread([])
    ('1', '1.25 [1, 1.5]', '–')
    """
    if not numbers:
        return NOTHING
    low, middle, high = (f"{v:.{digits}g}" for v in (min(numbers), median(numbers), max(numbers)))
    return middle if low == high else f"{middle} [{low}, {high}]"


def launches_grid(found: Sequence[Row]) -> Grid:
    """A row a benchmark's row: its parameters, how many launches there were, and the columns that it has."""
    columns = [name for name in _SHOWN if any(values(row, name) for row in found)]
    cells = tuple(
        (
            " ".join([row["bench"], *map(_words, row["parameters"].items())]),
            number(len(row["launches"])),
            *(spread(values(row, name)) for name in columns),
        )
        for row in found
    )
    headings = ("benchmark", "launches", *(_SHOWN[name] for name in columns))
    return Grid("Medians; over several launches their median, smallest and largest", headings, cells)


def _words(parameter: tuple[str, Any]) -> str:
    name, value = parameter
    return value if isinstance(value, str) else f"{name}={value}"
