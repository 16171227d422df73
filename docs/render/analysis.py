"""A block of docs/results.md: what the analysis of a long run costs."""

from __future__ import annotations

from qafel_analysis.tables.grid import size

from docs.render.pages import table
from docs.render.records import content, digits, origin


def costs() -> str:
    """Processor time and peak memory of each command."""
    found = content("analysis")
    lines = [
        (
            f"`{row['command']}`" if row["command"].startswith(("qafel", "run.")) else row["command"],
            f"{digits(row['processor_seconds'], 2)} s",
            size(row["peak_bytes"]),
        )
        for row in found["commands"]
    ]
    header = (
        f"{found['messages']:,} rows of messages, a file of {size(found['trace_bytes'])}",
        "processor time",
        "peak memory",
    )
    return f"{table(header, lines, right=(1, 2))}\n\n{origin('analysis')}"
