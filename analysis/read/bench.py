"""Results of `qafel-mpi bench … --json FILE`: {bench, rows, provenance}."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from qafel_mpi.trace.reader import TraceError

# What tells rows apart, where a row does not say so itself; in this order in a label.
_PARAMETERS = (
    "operation",
    "looks",
    "library",
    "algorithm",
    "codec",
    "bits",
    "against",
    "checksum",
    "threads",
    "device",
    "d",
    "bytes",
    "ranks",
    "clients",
)
_UNITS = ("bits", "threads", "bytes", "d", "ranks", "clients")
# Columns that are drawn as numbers; what is none was not measured.
_NUMBERS = {"median_us", "gb_per_s", "ratio", "uploads_per_s", "d", "bytes", "ranks", "clients"}


@dataclass(frozen=True)
class Bench:
    """One bench of a file: its rows have their parameters, median_us, and gb_per_s, ratio, reference if they apply.

    ratio: 1 = as good as the reference, which ran in turns with it.
    """

    path: Path
    name: str
    rows: pd.DataFrame
    provenance: dict[str, Any]


def read_bench(path: Path) -> list[Bench]:
    """The benches of a file, one or, of `bench all`, several. Raises TraceError that names the file and what is
    wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise TraceError(f"{path}: not JSON, or cut short ({error})") from error
    if not isinstance(content, dict) or not {"bench", "rows"} <= content.keys():
        raise TraceError(f"{path}: not a result of qafel-mpi bench (it has no bench and rows)")
    try:
        # Samples stay where they are: a file may have millions.
        rows = pd.DataFrame(
            [{k: v for k, v in row.items() if not isinstance(v, list | dict)} for row in content["rows"]]
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise TraceError(f"{path}: its rows do not form a table ({error})") from error
    if "median_us" not in rows:
        raise TraceError(f"{path}: its rows have no median_us: not a result of qafel-mpi bench")
    for name in _NUMBERS & set(rows):
        rows[name] = pd.to_numeric(rows[name], errors="coerce")
    about = content.get("provenance")
    names = (
        rows["bench"].astype(str) if "bench" in rows else pd.Series(str(content["bench"]), index=rows.index)
    )
    return [
        Bench(
            path, str(name), own.dropna(axis="columns", how="all"), about if isinstance(about, dict) else {}
        )
        for name, own in rows.groupby(names, sort=False)
    ]


def roofline(bench: Bench) -> pd.DataFrame:
    """Rows of a codec bench with a throughput: label, d, gb_per_s, and reference_gb_per_s, what the reference moved.

    Where it was also run against other libraries, the rows against a pass over memory: that is the roof.
    """
    rows = bench.rows
    if "against" in rows and (memory := rows["against"] == "memory").any():
        rows = rows[memory]
    if not {"gb_per_s", "d", "operation"} <= set(rows):
        return pd.DataFrame(columns=["label", "d", "gb_per_s", "reference_gb_per_s"])
    rows = rows.dropna(subset=["gb_per_s", "d"])
    found = rows[["d", "gb_per_s"]].assign(
        label=_labels(rows, without="d"), reference_gb_per_s=rows["gb_per_s"] / _ratio(rows)
    )
    return found.sort_values(["label", "d"], ignore_index=True)


def against(bench: Bench, *names: str) -> pd.DataFrame:
    """Rows by the first of these parameters that has several values: label, x, and name, which that is; rate
    (a second), seconds, and both of the reference. Empty where none has."""
    columns = ["label", "name", "x", "rate", "seconds", "reference_rate", "reference_seconds"]
    found = next((n for n in names if n in bench.rows and bench.rows[n].nunique() > 1), None)
    if found is None:
        return pd.DataFrame(columns=columns)
    rows = bench.rows.dropna(subset=[found, "median_us"])
    seconds = 1e-6 * rows["median_us"]
    rate = rows["uploads_per_s"] if "uploads_per_s" in rows else 1 / seconds
    made = {
        "label": _labels(rows, without=found),
        "name": found,
        "x": rows[found],
        "rate": rate,
        "seconds": seconds,
    }
    made |= {"reference_rate": rate / _ratio(rows), "reference_seconds": seconds * _ratio(rows)}
    return pd.DataFrame(made).sort_values(["label", "x"], ignore_index=True)


def _ratio(rows: pd.DataFrame) -> pd.Series:
    return rows["ratio"] if "ratio" in rows else pd.Series(float("nan"), index=rows.index)


def _labels(rows: pd.DataFrame, without: str) -> pd.Series:
    """The parameters of each row in words, but for those that are the same everywhere."""
    known = [c for c in _PARAMETERS if c in rows and c != without]
    told = [c for c in known if rows[c].nunique() > 1] or known[:1]
    return pd.Series(
        [" ".join(_words(row, told)) for _, row in rows.iterrows()], index=rows.index, dtype=object
    )


def _words(row: pd.Series, columns: list[str]) -> Iterator[str]:
    for column in columns:
        if pd.notna(value := row[column]):
            text = f"{value:,.10g}" if isinstance(value, float | int) else str(value)
            yield f"{text} {column}" if column in _UNITS else text
