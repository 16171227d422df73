"""The command `qafel-analysis`."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from qafel_analysis.commands.files import export, figures
from qafel_analysis.commands.link import link
from qafel_analysis.commands.numbers import bench, curves, timeline
from qafel_analysis.commands.options import (
    Accuracy,
    App,
    AsCsv,
    AsJson,
    AsLatex,
    AsMarkdown,
    Loss,
    Runs,
    examples,
    expanded,
    one_format,
    say,
    useless,
)
from qafel_analysis.commands.parting import parting
from qafel_analysis.commands.read import each_run, read
from qafel_analysis.commands.record import Note, Record, record
from qafel_analysis.commands.report import report
from qafel_analysis.commands.scaling import broadcast, pace, scaling
from qafel_analysis.commands.theory import theory
from qafel_analysis.commands.watch import watch
from qafel_analysis.read import rows as tables
from qafel_analysis.read.extras import MissingExtra
from qafel_analysis.tables import compare as comparison
from qafel_analysis.tables import grid, paper, views
from qafel_analysis.tables.sentence import sentence

T = TypeVar("T")
SCHEMA_VERSION = 1  # of `table --json`: qafel_mpi/schemas/table.json and messages.json

app = App(
    name="qafel-analysis",
    help="Turn trace files of qafel_mpi into tables, figures and reports.",
    epilog=examples(
        "qafel-analysis table runs/*.h5",
        "qafel-analysis compare runs/qafel.h5 runs/fedbuff.h5",
        "qafel-analysis figures runs/*.h5 -o figures",
        "qafel-analysis report runs/*.h5 -o report.html",
        "qafel-analysis watch runs",
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Format(StrEnum):
    TERMINAL = "terminal"
    JSON = "json"
    CSV = "csv"
    LATEX = "latex"
    MARKDOWN = "markdown"


@app.callback(invoke_without_command=True)
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if show_version:
        print(f"qafel-analysis {version('qafel-mpi')}")
        raise typer.Exit


@app.command(
    epilog=examples(
        "qafel-analysis table runs/*.h5",
        "qafel-analysis table runs/a.h5 --json",
        "qafel-analysis table runs/a.h5 --messages",
        "qafel-analysis table runs/*.h5 --target-accuracy 0.85 --latex > table.tex",
    )
)
def table(
    runs: Runs,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    as_latex: AsLatex = False,
    as_markdown: AsMarkdown = False,
    target_accuracy: Accuracy = None,
    target_loss: Loss = None,
    by_kind: Annotated[
        bool, typer.Option("--messages", help="Show messages by kind instead: counts, bytes, durations.")
    ] = False,
    kept: Record = None,
    note: Note = "",
) -> None:
    """Show what runs cost and what they reached.

    The terminal, LaTeX and Markdown show one row per setting, over its seeds; the terminal also shows each run.
    JSON and CSV have one object or row per run, with every column.
    """
    chosen = _format(as_json, as_csv, as_latex, as_markdown)
    if by_kind:
        targets = {"--target-accuracy": target_accuracy is not None, "--target-loss": target_loss is not None}
        useless(targets, "--messages")
        record(kept, note, "messages", versioned(_messages(runs, chosen)), runs)
        return
    found = read(runs, target_accuracy, target_loss)
    rows = [tables.public(run) for run in found]
    record(kept, note, "table", versioned(rows), runs)
    if chosen in (Format.JSON, Format.CSV):
        _data(rows, tables.KEYS, chosen)
    else:
        groups = comparison.groups(found)
        say(comparison.cut_short(groups))
        grids = [views.costs_grid(groups), views.bytes_grid(groups)]
        if chosen is Format.TERMINAL:
            some = [views.faults_grid(found), views.energy_grid(found)]
            grids = [views.runs_grid(found), *(one for one in some if one), *grids]
        _emit(grids, chosen)


def _messages(paths: Sequence[Path], chosen: Format) -> list[dict[str, Any]]:
    """Print the messages by kind. Returns the rows."""
    from qafel_analysis.tables import messages  # pandas, which the other tables do without

    found = each_run(paths, messages.rows_of)
    for _, notes in found:
        say(notes)
    rows = [row for made, _ in found for row in made]
    if chosen in (Format.JSON, Format.CSV):
        _data(rows, messages.KEYS, chosen)
    else:
        _emit([messages.messages_grid(rows)], chosen)
    return rows


@app.command(
    epilog=examples(
        "qafel-analysis compare runs/qafel*.h5 runs/fedbuff*.h5",
        "qafel-analysis compare runs/*.h5 --paper",
        "qafel-analysis compare runs/*.h5 --markdown",
        "qafel-analysis compare runs/*.h5 --sentence",
    )
)
def compare(
    runs: Runs,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    as_latex: AsLatex = False,
    as_markdown: AsMarkdown = False,
    target_accuracy: Accuracy = None,
    target_loss: Loss = None,
    with_paper: Annotated[
        bool, typer.Option("--paper", help="Compare with the numbers that the paper's authors published.")
    ] = False,
    in_words: Annotated[
        bool,
        typer.Option(
            "--sentence", callback=one_format, help="Print the comparison with FedBuff as one sentence."
        ),
    ] = False,
    kept: Record = None,
    note: Note = "",
) -> None:
    """Show settings side by side over their seeds, with what each saves against FedBuff."""
    chosen = _format(as_json, as_csv, as_latex, as_markdown)
    useless({"--paper": with_paper and in_words}, "--sentence")
    groups = comparison.groups(read(runs, target_accuracy, target_loss))
    say(comparison.cut_short(groups))
    if with_paper:
        beside = paper.against(groups)
        content = [paper.as_json(row) for row in beside]
        shown = [paper.paper_grid(beside)]
    else:
        content = [comparison.summary(g, groups) for g in groups]
        shown = views.compared(groups, for_terminal=chosen is Format.TERMINAL)
    record(kept, note, "compare", content, runs)
    if in_words:
        print(sentence(groups))
    elif chosen is Format.JSON:
        print(json.dumps(content, indent=1))
    else:
        _emit(shown, chosen)


def versioned(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as `--json` prints them."""
    return [{"schema_version": SCHEMA_VERSION, **row} for row in rows]


def _data(rows: Sequence[dict[str, Any]], keys: Sequence[str], chosen: Format) -> None:
    """For programs: every column, nothing rounded. qafel_mpi/schemas/ describes the JSON."""
    if chosen is Format.JSON:
        print(json.dumps(versioned(rows), indent=1))
        return
    writer = csv.DictWriter(sys.stdout, fieldnames=keys)
    writer.writeheader()
    writer.writerows(rows)


app.command(
    epilog=examples(
        "qafel-analysis figures runs/*.h5 -o figures",
        "qafel-analysis figures runs/a.h5 --only timeline --window 1.5:1.6",
        "qafel-analysis figures codec.json ingest.json",
    )
)(figures)
app.command(
    epilog=examples(
        "qafel-analysis report runs/*.h5 -o report.html",
        "qafel-analysis report runs/*.h5 --target-accuracy 0.85 --details 4",
    )
)(report)
app.command(
    epilog=examples(
        "qafel-analysis export runs/a.h5                        # a.trace.json, for ui.perfetto.dev",
        "qafel-analysis export runs/*.h5 --to parquet --table messages -o tables",
        "qafel-analysis export runs/a.h5 --to csv --table steps",
        "qafel-analysis export runs/a.h5 --to otf2              # a.otf2/traces.otf2, for Vampir and ViTE",
    )
)(export)
app.command(
    epilog=examples(
        "qafel-analysis watch runs/a.shards",
        "qafel-analysis watch runs --every 10",
        "qafel-analysis watch runs --once --json",
        "qafel-analysis watch runs --prometheus /var/lib/prometheus/node-exporter/qafel.prom",
    )
)(watch)
app.command(
    epilog=examples(
        "qafel-analysis curves runs/digits/*.h5",
        "qafel-analysis curves runs/digits/*.h5 --x seconds --y loss --at 1,2,5",
        "qafel-analysis curves runs/digits/*.h5 --x payload_bytes --record curves.json",
    )
)(curves)
app.command(
    epilog=examples(
        "qafel-analysis timeline runs/a.h5 --window 1.5:1.6",
        "qafel-analysis timeline runs/a.h5 --window 1.5:1.6 --record timeline.json",
    )
)(timeline)
app.command(
    epilog=examples(
        "qafel-analysis parting runs/a.h5 runs/again.h5",
        "qafel-analysis parting runs/a.h5 runs/b.h5 --out apart",
    )
)(parting)
app.command(
    epilog=examples(
        "qafel-analysis bench p2p.json",
        "qafel-analysis bench launch-*.json --markdown",
    )
)(bench)
app.command(
    epilog=examples(
        "qafel-analysis scaling runs/strong/*.h5",
        "qafel-analysis scaling runs/weak/*.h5 --train-seconds 1 --link-gbit 200 --markdown",
    )
)(scaling)
app.command(
    epilog=examples(
        "qafel-analysis broadcast p2p.json broadcast-*.json",
        "qafel-analysis broadcast p2p.json broadcast-*.json --latency-us 2 --link-gbit 100 --markdown",
    )
)(broadcast)
app.command(
    epilog=examples(
        "qafel-analysis theory runs/cross-term/*.h5",
        "qafel-analysis theory runs/cross-term/*.h5 --json",
    )
)(theory)
app.command(
    epilog=examples(
        "qafel-analysis pace runs/link-cnn/*.h5",
        "qafel-analysis pace runs/link-resnet18/*.h5 --markdown",
    )
)(pace)
app.command(
    epilog=examples(
        "qafel-analysis link runs/tradeoff/*.h5 --between-ms 10",
        "qafel-analysis link runs/tradeoff/*.h5 --between-ms 2.5 --mbit 50 --json",
    )
)(link)


def _format(as_json: bool, as_csv: bool, as_latex: bool, as_markdown: bool) -> Format:
    """The one that was asked for: `one_format` has refused several."""
    chosen = {
        Format.JSON: as_json,
        Format.CSV: as_csv,
        Format.LATEX: as_latex,
        Format.MARKDOWN: as_markdown,
    }
    return next((kind for kind, on in chosen.items() if on), Format.TERMINAL)


def _emit(grids: Sequence[grid.Grid], chosen: Format) -> None:
    for one in grids:
        match chosen:
            case Format.MARKDOWN:
                print(grid.to_markdown(one))
            case Format.LATEX:
                print(grid.to_latex(one))
            case Format.CSV:
                print(grid.to_csv(one), end="")
            case _:
                grid.to_terminal(one)


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what an encoding lacks is written as an escape
            stream.reconfigure(errors="backslashreplace")
    sys.argv[1:] = map(expanded, sys.argv[1:])
    try:
        app()
    except MissingExtra as error:
        say([error])
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a folder that can't be written to, a full disk
        say([f"{error.filename or 'output'}: {error.strerror}"])
        sys.exit(2)
