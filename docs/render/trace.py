"""Blocks of docs/trace.md, from qafel_mpi/trace_schema.py."""

from __future__ import annotations

from docs.render.pages import table
from qafel_mpi.trace_schema import ATTRIBUTES, GROUPS, SCHEMA, Column, Table


def tables() -> str:
    """Every table of a trace file with its columns."""
    return "\n\n".join(_table(name, described) for name, described in SCHEMA.items())


def _table(name: str, described: Table) -> str:
    rows = [
        (f"`{column.name}`", f"`{column.type.lstrip('<')}`", column.unit, _meaning(column))
        for column in described.columns
    ]
    return f"### /{name}\n\n{described.row}\n\n{table(['column', 'type', 'unit', 'meaning'], rows)}"


def _meaning(column: Column) -> str:
    names = ", ".join(f"{number} {name}" for number, name in column.names.items())
    return f"{column.meaning}: {names}" if names else column.meaning


def groups() -> str:
    """What lies in the file beside the tables."""
    return table(["path", "meaning"], [(f"`{path}`", meaning) for path, meaning in GROUPS.items()])


def attributes() -> str:
    """The root attributes."""
    rows = [(f"`{name}`", unit, meaning) for name, (unit, meaning) in ATTRIBUTES.items()]
    return table(["attribute", "unit or format", "meaning"], rows)
