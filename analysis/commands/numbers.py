"""The commands that give the numbers behind a picture or a page: curves, timeline and bench."""

from __future__ import annotations

import json
from math import isfinite, nan
from pathlib import Path
from typing import Annotated, Any

import typer
from qafel_analysis.commands.files import Seconds, window_of
from qafel_analysis.commands.options import NOTHING_READ, Accuracy, Loss, Runs, say
from qafel_analysis.commands.read import each, read
from qafel_analysis.commands.record import Note, Record, record
from qafel_analysis.figures.axes import AGAINST, MEASURED
from qafel_analysis.read.damage import reading
from qafel_analysis.tables import compare
from qafel_analysis.tables import launches as tables
from qafel_analysis.tables.grid import Grid, to_markdown, to_terminal

from qafel_mpi.trace.reader import TraceError, open_trace

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")]


def curves(
    runs: Runs,
    x: Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(AGAINST)}.")] = ("payload_bytes"),
    y: Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(MEASURED)}.")] = ("accuracy"),
    at: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Only at these x, of every run: 100,1000, or 1:500 for each of them. Default: the median over runs.",
        ),
    ] = "",
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
    target_accuracy: Accuracy = None,
    target_loss: Loss = None,
    kept: Record = None,
    note: Note = "",
) -> None:
    """Show how a quantity changed while the runs went on: median, smallest and largest over the seeds of a setting.

    A run that reached its target keeps its last value, one that was cut short does not; a curve ends where half of
    its runs have ended. With --at the
    value is the last one at or before each x: of accuracy and loss that of an evaluation, of the rest that of a step.
    """
    from qafel_analysis.figures import convergence  # pandas, here and below: `--help` does without it

    for option, name, known in (("--x", x, AGAINST), ("--y", y, MEASURED)):
        if name not in known:
            raise typer.BadParameter(f"{option} {name}: not one of {', '.join(known)}")
    points = _points(at)
    groups = compare.groups(read(runs, target_accuracy, target_loss))
    found = [
        convergence.values_at(g, x, y, points) if points else convergence.as_json(g, x, y) for g in groups
    ]
    record(kept, note, "curves", found, runs)
    _show(found, convergence.curves_grid(found, x, y), as_json, as_markdown)


def timeline(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN.h5", help="A trace file, or a folder of shards.", show_default=False),
    ],
    window: Seconds = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
    kept: Record = None,
    note: Note = "",
) -> None:
    """Show what each rank did when: training, encoding, decoding, sending, and waiting between them.

    As a table: the share of the window that each rank spent on each. As JSON: every span of time as well.
    """
    from qafel_analysis.read import timeline as spans

    shown = window_of(window)
    try:
        with reading(run), open_trace(run, salvage=True) as trace:
            length_s = spans.whole_run(trace).end_s
            shown = shown or spans.whole_run(trace)
            found = spans.as_json(trace, shown)
    except TraceError as error:
        say([error])
        raise typer.Exit(NOTHING_READ) from error
    if not found["spans"]:
        say(
            [
                f"{run}: nothing lies between {shown.begin_s:g} s and {shown.end_s:g} s; the run has {length_s:.4g} s"
            ]
        )
        raise typer.Exit(NOTHING_READ)
    record(kept, note, "timeline", found, [run])
    shares = tuple(
        (str(one["rank"]), *(f"{one[name]:.1%}" for name in spans.EXCLUSIVE)) for one in found["shares"]
    )
    caption = f"Share of the time from {shown.begin_s:.4g} s to {shown.end_s:.4g} s"
    _show(found, Grid(caption, ("rank", *spans.EXCLUSIVE), shares), as_json, as_markdown)


def bench(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE.json...", help="Results of `qafel-mpi bench … --json FILE`.", show_default=False
        ),
    ],
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
    kept: Record = None,
    note: Note = "",
) -> None:
    """Show results of benchmarks without their samples: several launches of one command as one row.

    A cell is the median over the launches, with the smallest and the largest in brackets.
    """
    found = tables.rows(each(files, tables.read))
    record(kept, note, "bench", found, files)
    _show(found, tables.launches_grid(found), as_json, as_markdown)


def _points(text: str) -> list[float]:
    """
    >>> _points("100,1e3,5:7")
    [100.0, 1000.0, 5.0, 6.0, 7.0]
    """
    try:
        found = [point for part in text.split(",") for point in _each(part)] if text else []
    except ValueError:
        found = [nan]
    if not all(map(isfinite, found)):
        raise typer.BadParameter(f"--at {text}: not numbers, e.g. 100,1000 or 1:500")
    return found


def _each(part: str) -> list[float]:
    first, colon, last = part.partition(":")
    return [float(k) for k in range(int(first), int(last) + 1)] if colon else [float(part)]


def _show(content: Any, grid: Grid, as_json: bool, as_markdown: bool) -> None:
    if as_json:
        print(json.dumps(content, indent=1))
    elif as_markdown:
        print(to_markdown(grid))
    else:
        to_terminal(grid)
