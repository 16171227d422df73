"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Override a setting. Can be repeated. `qafel-mpi settings` lists them.",
    ),
]
CheckpointEvery = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-every",
        metavar="N",
        help="Write a checkpoint every N server steps (50) or seconds (30s), or never. Default: once a minute, or "
        "less often where that would take more than 1% of the time. A signal that ends the run writes one too.",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder of the data sets. Default: $QAFEL_DATA_DIR, else ~/.cache/qafel_mpi."
    ),
]
