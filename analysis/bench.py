"""Results of `qafel-mpi bench … --json FILE`: {bench, rows, provenance}."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from qafel_mpi.trace.reader import TraceError


@dataclass(frozen=True)
class Bench:
    """One file: its rows have their parameters, median_us, ci95_us, and gb_per_s, ratio, reference if they apply."""

    path: Path
    name: str
    rows: pd.DataFrame
    provenance: dict[str, Any]


# Columns that are drawn as numbers; what is none is not measured.
_NUMBERS = {"median_us", "gb_per_s", "ratio", "d", "ranks", "bytes"}


def read_bench(path: Path) -> Bench:
    """Raises TraceError that names the file and what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise TraceError(f"{path}: not JSON, or cut short ({error})") from error
    if not isinstance(content, dict) or not {"bench", "rows"} <= content.keys():
        raise TraceError(f"{path}: not a result of qafel-mpi bench (no bench and rows in it)")
    try:
        rows = pd.DataFrame(content["rows"])
    except (ValueError, TypeError, AttributeError) as error:
        raise TraceError(f"{path}: its rows are no table ({error})") from error
    if "median_us" not in rows:
        raise TraceError(f"{path}: its rows have no median_us: not a result of qafel-mpi bench")
    for name in _NUMBERS & set(rows):
        rows[name] = pd.to_numeric(rows[name], errors="coerce")
    return Bench(
        path,
        str(content["bench"]),
        rows,
        content["provenance"] if isinstance(content.get("provenance"), dict) else {},
    )


def roofline(bench: Bench) -> pd.DataFrame:
    """Rows of a codec bench with a throughput: operation, label, d, gb_per_s, and reference_gb_per_s, what the
    reference named in the row moves in the same run (ratio 1 = as good as the reference)."""
    rows = bench.rows
    if not {"gb_per_s", "d", "operation"} <= set(rows):
        return pd.DataFrame(columns=["operation", "label", "d", "gb_per_s", "reference_gb_per_s"])
    rows = rows.dropna(subset=["gb_per_s", "d"])
    found = rows[["operation", "d", "gb_per_s"]].assign(
        label=_label(rows, [c for c in ("operation", "codec", "bits", "threads") if c in rows]),
        reference_gb_per_s=rows["gb_per_s"] / _ratio(rows),
    )
    return found.sort_values(["label", "d"], ignore_index=True)


def scaling(bench: Bench) -> pd.DataFrame:
    """Rows of a bench on several numbers of ranks: label, ranks, rate (operations a second), reference_rate."""
    rows = bench.rows
    if "ranks" not in rows or rows["ranks"].nunique() < 2:
        return pd.DataFrame(columns=["label", "ranks", "rate", "reference_rate"])
    rows = rows.dropna(subset=["ranks", "median_us"])
    words = [c for c in rows if rows[c].dtype == object and c not in ("reference", "ci95_us")]
    numbers = [c for c in ("bytes", "bits", "d") if c in rows and rows[c].nunique() > 1]
    rate = 1e6 / rows["median_us"]
    found = pd.DataFrame({"label": _label(rows, [*words, *numbers]), "ranks": rows["ranks"], "rate": rate})
    found["reference_rate"] = rate / _ratio(rows)
    return found.sort_values(["label", "ranks"], ignore_index=True)


def _ratio(rows: pd.DataFrame) -> pd.Series:
    missing = pd.Series(float("nan"), index=rows.index)
    return pd.to_numeric(rows.get("ratio", missing), errors="coerce")


def _label(rows: pd.DataFrame, columns: list[str]) -> pd.Series:
    """The values of these columns, in words; a column that is the same everywhere is left out."""
    told = [c for c in columns if rows[c].astype(str).nunique() > 1] or columns[:1]
    words = [" ".join(_word(c, row[c]) for c in told if pd.notna(row[c])) for _, row in rows.iterrows()]
    return pd.Series(words, index=rows.index, dtype=object)


def _word(column: str, value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{text} {column}" if column in _UNITS else text


_UNITS = ("bits", "threads", "bytes", "d")
