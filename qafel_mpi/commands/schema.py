"""The command `schema`: the JSON Schemas of what the commands print as JSON."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from qafel_mpi import schemas
from qafel_mpi.config_text import did_you_mean

EXAMPLES = "Examples:\n\n  qafel-mpi schema\n\n  qafel-mpi schema table > table.schema.json"


def schema(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Print this schema. Default: list them all.")
    ] = None,
) -> None:
    """Print the JSON Schema of a command's JSON output, or list the schemas."""
    known = schemas.names()
    if name is None:
        width = max(map(len, known))
        for one in known:
            print(f"{one:<{width}}  {schemas.schema(one)['title']}")
    elif name in known:
        print(schemas.text(name), end="")
    else:
        print(f"schema {name}: there is no such schema; {did_you_mean(name, known)}", file=sys.stderr)
        raise typer.Exit(2)
