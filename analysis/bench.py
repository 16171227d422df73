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
    rows = pd.DataFrame(content["rows"])
    if "median_us" not in rows:
        raise TraceError(f"{path}: its rows have no median_us: not a result of qafel-mpi bench")
    return Bench(path, str(content["bench"]), rows, dict(content.get("provenance") or {}))


def roofline(bench: Bench) -> pd.DataFrame:
    """Rows of a codec bench with a throughput: operation, label, d, gb_per_s, and roof_gb_per_s, what the
    reference named in the row moves in the same run (ratio 1 = as good as the reference)."""
    rows = bench.rows
    if not {"gb_per_s", "d", "operation"} <= set(rows):
        return pd.DataFrame(columns=["operation", "label", "d", "gb_per_s", "roof_gb_per_s"])
    rows = rows.dropna(subset=["gb_per_s", "d"])
    names = [c for c in ("operation", "codec", "bits", "threads") if c in rows]
    label = rows[names].astype(str).agg(" ".join, axis=1) if len(rows) else pd.Series(dtype=str)
    ratio = rows["ratio"] if "ratio" in rows else float("nan")
    return pd.DataFrame(
        {
            "operation": rows["operation"],
            "label": label,
            "d": rows["d"],
            "gb_per_s": rows["gb_per_s"],
            "roof_gb_per_s": rows["gb_per_s"] / ratio,
        }
    ).sort_values(["label", "d"], ignore_index=True)
