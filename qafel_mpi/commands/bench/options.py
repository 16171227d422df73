"""Options that the benchmarks share, and their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write rows, samples and provenance as JSON.")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE.h5", help="Write the same as HDF5.")]
Seconds = Annotated[float, typer.Option(min=0.0, help="Longest time for one row, without its warm-up.")]
Width = Annotated[
    float,
    typer.Option(
        min=0.0, help="Stop a row when the median's 95% interval is this narrow, relative to the median."
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.toml",
        help="Reference values (target, lower, upper, unit). Exit with 4 if one is missed.",
    ),
]
Sizes = Annotated[
    str, typer.Option("--bytes", metavar="LIST", help="Approximate payload sizes, such as 15000,4194304.")
]

Elements = Annotated[
    str,
    typer.Option(
        "--d", metavar="LIST", help="Numbers of elements. Those that do not fit into memory are skipped."
    ),
]
Parameters = Annotated[
    str, typer.Option("--d", metavar="LIST", help="Parameters of the model, approximately.")
]

SECONDS, WIDTH = 2.0, 0.02
PAYLOADS = "1024,15000,262144,4194304"
UPLOADS = 300
