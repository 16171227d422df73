"""Blocks of docs/trace.md, from qafel_mpi/trace_schema.py."""

from __future__ import annotations

from docs.render.pages import table
from qafel_mpi.trace_schema import TABLES


def tables() -> str:
    """Every table of a trace file with its columns."""
    parts = []
    for name, dtype in TABLES.items():
        rows = [(f"`{column}`", dtype[column]) for column in dtype.names or ()]
        parts.append(f"### /{name}\n\n{table(['column', 'type'], rows)}")
    return "\n\n".join(parts)
