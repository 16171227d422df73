"""The messages of a run by their kind: how many, how many bytes, how long; one pass over all of them, in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from qafel_analysis.read.rows import plain
from qafel_analysis.read.traffic import Traffic, latency_quantile, quantile_s, traffic
from qafel_analysis.tables.grid import NOTHING, Grid, duration, number, size

from qafel_mpi.trace.reader import Trace, open_trace

SHARES = {"median": 0.5, "p99": 0.99, "p999": 0.999}
KEYS = (
    "run",
    "kind",
    "sent",
    "received",
    "payload_bytes",
    "wire_bytes",
    "encode_median_s",
    "send_median_s",
    "send_p99_s",
    "send_p999_s",
    "decode_median_s",
    "latency_median_s",
    "latency_p99_s",
    "latency_p999_s",
    "clock_error_s",
)


def rows(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """(one object with KEYS per kind, what is wrong with the file). Raises TraceError."""
    with open_trace(path, salvage=True) as trace:
        made, notes = rows_of(trace)
        return made, [*trace.notes, *notes]


def rows_of(trace: Trace) -> tuple[list[dict[str, Any]], list[str]]:
    """(one object with KEYS per kind, what is wrong with its messages). Raises TraceError."""
    found, notes = traffic(trace), []
    if found.dropped:
        notes.append(f"{trace.path}: {found.dropped:,} messages failed their check and are not counted")
    return kinds(found, str(trace.path)), notes


def kinds(found: Traffic, run: str) -> list[dict[str, Any]]:
    """One object with KEYS per kind.

    Durations are to a bin's width, 12%; null where none was recorded. latency_*_s: from post to arrival in a sample
    of the messages; null where the clocks may make it as wrong as it is long, or their error is unknown.
    clock_error_s: how wrong they may make the median.
    """
    made = []
    for kind, (sent, received, payload, wire) in sorted(found.kinds.items()):
        own = found.latency[found.latency["kind"] == kind]
        latency = {
            name: latency_quantile(own["seconds"], own["bound_s"], share) for name, share in SHARES.items()
        }
        values = {
            "run": run,
            "kind": kind,
            "sent": sent,
            "received": received,
            "payload_bytes": payload,
            "wire_bytes": wire,
            "encode_median_s": _quantile(found.encodes_s, kind, 0.5),
            "decode_median_s": _quantile(found.decodes_s, kind, 0.5),
            "clock_error_s": latency["median"][1],
            **{f"send_{name}_s": _quantile(found.sends_s, kind, share) for name, share in SHARES.items()},
            **{f"latency_{name}_s": s if s > error_s else np.nan for name, (s, error_s) in latency.items()},
        }
        made.append({key: plain(values[key]) for key in KEYS})
    return made


def _quantile(histograms: dict[str, np.ndarray], kind: str, share: float) -> float:
    return quantile_s(histograms[kind], share) if kind in histograms else float("nan")


def messages_grid(found: Sequence[dict[str, Any]]) -> Grid:
    headings = (
        "run",
        "kind",
        "sent",
        "received",
        "payload",
        "wire",
        "encode,\nmedian",
        "send,\nmedian",
        "send,\n99%",
        "send,\n99.9%",
        "decode,\nmedian",
        "latency,\nmedian",
        "latency,\n99%",
        "latency,\n99.9%",
        "clock\nerror",
    )
    cells = tuple(
        (
            Path(row["run"]).name,
            row["kind"],
            number(row["sent"]),
            number(row["received"]),
            size(row["payload_bytes"]),
            size(row["wire_bytes"]),
            *(duration(row[key]) for key in KEYS[6:]),
        )
        for row in found
    )
    caption = (
        "Messages by kind, from their own rows. Latency: from post to arrival, in a sample; "
        f"{NOTHING} where it is not recorded, or not above the clocks' error"
    )
    return Grid(caption, headings, cells, texts=2)
