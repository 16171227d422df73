"""The command `parting`: where two runs of one experiment part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from qafel_analysis.commands.options import NOTHING_READ, AsJson, AsMarkdown, say
from qafel_analysis.read.damage import reading
from qafel_analysis.tables import parting as tables
from qafel_analysis.tables.grid import to_markdown, to_terminal

from qafel_mpi.trace.reader import TraceError, open_trace


def parting(
    first: Annotated[Path, typer.Argument(metavar="A.h5", help="A trace.", show_default=False)],
    second: Annotated[
        Path, typer.Argument(metavar="B.h5", help="Another trace of the same experiment.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FIGURE", help="Draw the steps' differences to FIGURE.pdf and FIGURE.png."
        ),
    ] = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """Show where two runs of one experiment part: in the order of uploads, in a payload, in a server step.

    A run and its replay (`qafel-mpi replay A.h5 --out B.h5`) do not part. Two runs on the wall clock differ in the
    order of uploads first, because the machine makes that order.
    """
    try:
        with (
            reading(first),
            open_trace(first, salvage=True) as a,
            reading(second),
            open_trace(second, salvage=True) as b,
        ):
            found, apart = tables.parting(a, b), tables.steps_apart(a, b)
    except TraceError as error:
        say([error])
        raise typer.Exit(NOTHING_READ) from error
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
    elif as_markdown:
        print(to_markdown(tables.parting_grid(found)))
    else:
        to_terminal(tables.parting_grid(found))
    if out is not None:
        from qafel_analysis.figures import parting as figures  # matplotlib
        from qafel_analysis.figures.style import save

        for path in save(figures.parting(apart, found.step), out):
            print(path)
