"""The commands that write files: figures and export."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from qafel_analysis.commands.options import NOTHING_READ, Accuracy, Loss, Runs, say, target_of, useless
from qafel_analysis.commands.read import read
from qafel_analysis.read.damage import reading

from qafel_mpi.outputs import whole
from qafel_mpi.trace.reader import TraceError

if TYPE_CHECKING:
    from qafel_analysis.figures.draw import Drawing
    from qafel_analysis.read.timeline import Window

Seconds = Annotated[
    str | None,
    typer.Option(
        "--window", metavar="BEGIN:END", help="Part of the timeline, in seconds since the run began: 1.5:2."
    ),
]
_PRINTED_INTERVALS = 300  # of a timeline: as many as can be told apart on paper


def figures(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN.h5...",
            help="Trace files, folders of shards, or results of qafel-mpi bench --json.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")] = Path("figures"),
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="WORD", help="Draw only figures with this word in their name. Can be repeated."
        ),
    ] = None,
    details: Annotated[
        int, typer.Option(min=0, help="Number of runs with figures of their timeline, links and latency.")
    ] = 2,
    window: Seconds = None,
    target_accuracy: Accuracy = None,
    target_loss: Loss = None,
) -> None:
    """Draw every figure that the runs allow, as PDF and PNG, and write the captions to captions.md.

    The figures are: convergence against uploads, bytes and time (median and range over seeds); bytes to the target;
    the trade-off of bits; the gap of the hidden state; staleness; for some runs each rank's timeline, bytes by link
    and latencies; for bench results the codecs' throughput and scaling. The command prints the names of the files.
    """
    shown = window_of(window)
    from qafel_analysis.figures import draw, style
    from qafel_analysis.figures.collect import collect

    found = collect(
        runs,
        target_of(target_accuracy, target_loss),
        details=details,
        intervals=_PRINTED_INTERVALS,
        window=shown,
    )
    say(found.failures)
    say(found.notes)
    if not found.drawn and not found.benches:
        raise typer.Exit(NOTHING_READ)
    drawn = [d for d in draw.drawings(found) if not only or any(word in d.name for word in only)]
    for drawing in drawn:
        for file in style.save(drawing.figure, out / drawing.name):
            print(file)
    if drawn:
        print(_captions(drawn, out))
    else:
        say(["nothing to draw" + (f" with {' or '.join(only)} in its name" if only else "")])


def _captions(drawn: Sequence[Drawing], out: Path) -> Path:
    path = out / "captions.md"
    text = "".join(f"**{d.name}**: {d.caption}\n\n" for d in drawn)
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


class Target(StrEnum):
    PERFETTO = "perfetto"
    CSV = "csv"
    PARQUET = "parquet"
    OTF2 = "otf2"


class Table(StrEnum):
    RUNS = "runs"
    MESSAGES = "messages"
    UPDATES = "updates"
    STEPS = "steps"
    RANKS = "ranks"
    CLOCK = "clock"
    ENCODINGS = "encodings"
    MEMORY = "memory"
    FAULTS = "faults"


def export(
    runs: Runs,
    to: Annotated[
        Target,
        typer.Option(
            "--to",
            help="perfetto: a timeline for ui.perfetto.dev. otf2: one for Vampir or ViTE. csv, parquet: a table.",
        ),
    ] = Target.PERFETTO,
    table: Annotated[
        Table | None,
        typer.Option(
            "--table",
            help="For csv and parquet: the table to export from each run. runs: one table of all runs, like "
            "`table --csv`. Default: messages.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")] = Path(),
    window: Seconds = None,
    gzip: Annotated[bool, typer.Option("--gzip", help="Compress the timeline with gzip.")] = False,
) -> None:
    """Write traces in other programs' formats, one file per run, such as RUN.trace.json or RUN.messages.csv.

    An OTF2 archive is a folder, RUN.otf2; open RUN.otf2/traces.otf2. It replaces an older archive of that name. All
    other formats are read and written in blocks, however long the run is. The command prints the names of the files.
    """
    if to in (Target.CSV, Target.PARQUET):
        useless({"--window": window is not None, "--gzip": gzip}, f"--to {to}")
    else:
        useless({"--table": table is not None, "--gzip": gzip and to is Target.OTF2}, f"--to {to}")
    shown, table = window_of(window), table or Table.MESSAGES
    from qafel_analysis import export as exporting
    from qafel_analysis.figures.collect import short_names
    from qafel_analysis.otf2 import to_otf2

    if table is Table.RUNS:
        found = read(runs, None, None)
        print(exporting.runs(found, out / f"runs.{to}"))
        return
    written = 0
    for path, name in short_names(runs).items():
        try:
            with reading(path):
                match to:
                    case Target.CSV:
                        file = out / f"{name}.{table}.csv"
                        exporting.to_csv(path, table, file)
                    case Target.PARQUET:
                        file = out / f"{name}.{table}.parquet"
                        exporting.to_parquet(path, table, file)
                    case Target.OTF2:
                        file = to_otf2(path, out / f"{name}.otf2", shown).anchor
                    case _:
                        file = out / f"{name}.trace.json{'.gz' if gzip else ''}"
                        exporting.to_perfetto(path, file, shown)
        except TraceError as error:
            say([error])
            continue
        written += 1
        print(file)
    if not written:
        raise typer.Exit(NOTHING_READ)


def window_of(text: str | None) -> Window | None:
    """BEGIN:END as a window; None as none. Raises BadParameter."""
    if text is None:
        return None
    from qafel_analysis.read.timeline import Window

    begin, _, end = text.partition(":")
    try:
        found = Window(float(begin), float(end))
    except ValueError:
        found = Window(0.0, 0.0)
    if not found.begin_s < found.end_s:
        raise typer.BadParameter(f"--window {text}: not BEGIN:END in seconds, such as 1.5:2")
    return found
