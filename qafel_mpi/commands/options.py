"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; may be repeated."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Where the data sets lie. Default: $QAFEL_DATA_DIR, else ~/.cache/qafel_mpi."
    ),
]
