"""The command `qafel-analysis`."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from qafel_analysis import compare as comparison
from qafel_analysis import table as tables
from rich.console import Console
from rich.table import Table

from qafel_mpi.trace.reader import TraceError

app = typer.Typer(
    name="qafel-analysis",
    help="From trace files of qafel_mpi to tables.",
    epilog="Examples:\n\n"
    "  qafel-analysis table runs/*.h5\n\n"
    "  qafel-analysis table runs/a.h5 --json\n\n"
    "  qafel-analysis compare runs/qafel.h5 runs/fedbuff.h5",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Runs = Annotated[list[Path], typer.Argument(metavar="RUN.h5...", help="Trace files.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]


@app.command()
def table(
    runs: Runs,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV in place of a table.")] = False,
) -> None:
    """One row per run: what it cost and what it reached."""
    found = _read(runs)
    if as_json:
        print(json.dumps(found, indent=1))
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, fieldnames=tables.KEYS)
        writer.writeheader()
        writer.writerows(found)
    else:
        _print_runs(found)


@app.command()
def compare(runs: Runs, as_json: AsJson = False) -> None:
    """Settings side by side over their seeds, with the saving against FedBuff."""
    groups = comparison.groups(_read(runs))
    baseline = next((g for g in groups if g.runs[0]["algorithm"] == comparison.BASELINE), None)
    if as_json:
        print(json.dumps([_group_json(g, baseline) for g in groups], indent=1))
    else:
        _print_groups(groups, baseline)


def _read(paths: list[Path]) -> list[dict[str, Any]]:
    """Every run that can be read; a message for each that can't. Exit code 2 if none can."""
    found: list[dict[str, Any]] = []
    for path in paths:
        try:
            found.append(tables.row(path))
        except TraceError as error:
            print(f"qafel-analysis: {error}", file=sys.stderr)
    if not found:
        raise typer.Exit(2)
    return found


def _print_runs(found: list[dict[str, Any]]) -> None:
    out = Table(box=None, pad_edge=False)
    for heading in ("run", "setting", "seed"):
        out.add_column(heading, overflow="fold")
    for heading in (
        "uploads\nto target",
        "uploads",
        "server\nsteps",
        "accuracy",
        "up\npayload",
        "up\nwire",
        "down\npayload",
        "down\nlinks",
        "seconds",
    ):
        out.add_column(heading, justify="right")
    out.add_column("outcome", overflow="fold")
    for run in found:
        seconds = run["virtual_seconds"] or run["seconds"]
        out.add_row(
            Path(run["run"]).name,
            comparison.label(run),
            _number(run["seed"]),
            "never" if run["uploads_to_target"] is None else _number(run["uploads_to_target"]),
            _number(run["uploads"]),
            _number(run["server_steps"]),
            _fraction(run["accuracy"]),
            _bytes(run["payload_bytes_up"]),
            _bytes(run["wire_bytes_up"]),
            _bytes(run["payload_bytes_down"]),
            _bytes(run["down_links"]),
            _fraction(seconds) + (" virtual" if run["virtual_seconds"] else ""),
            str(run["outcome"]),
        )
    _console().print(out)


_SHOWN = (
    ("uploads to target", "uploads_to_target", "number"),
    ("server steps", "server_steps", "number"),
    ("bytes up, payload", "payload_bytes_up", "bytes"),
    ("bytes up, wire", "wire_bytes_up", "bytes"),
    ("bytes up, paper's formula", "paper_bytes_up", "bytes"),
    ("bytes down, payload", "payload_bytes_down", "bytes"),
    ("bytes down, wire", "wire_bytes_down", "bytes"),
    ("bytes down, paper's formula", "paper_bytes_down", "bytes"),
    ("bytes down, sum over links", "down_links", "bytes"),
    ("seconds", "seconds", "number"),
    ("accuracy", "accuracy", "fraction"),
)


def _print_groups(groups: list[comparison.Group], baseline: comparison.Group | None) -> None:
    """Quantities as rows, settings as columns: means over the runs that reached the target."""
    out = Table(box=None, pad_edge=False)
    out.add_column("mean over runs that reached the target", overflow="fold")
    for group in groups:
        out.add_column(group.label, justify="right", overflow="fold")
    others = [g for g in groups if g is not baseline] if baseline else []
    for group in others:
        out.add_column(
            f"{comparison.BASELINE} / {group.runs[0]['algorithm']} [95% interval]", justify="right"
        )
    out.add_row(
        "runs that reached it",
        *(f"{len(g.reached)} of {len(g.runs)}" for g in groups),
        *("" for _ in others),
    )
    out.add_row("seeds", *(", ".join(str(r["seed"]) for r in g.runs) for g in groups), *("" for _ in others))
    show = {"number": _number, "bytes": _bytes, "fraction": _fraction}
    for title, key, kind in _SHOWN:
        cells = [show[kind](g.mean(key)) for g in groups]
        savings = [
            comparison.saving(g, baseline, key) if baseline and key in comparison.COSTS else None
            for g in others
        ]
        out.add_row(title, *cells, *(_ratio(s) for s in savings))
    _console().print(out)


def _group_json(group: comparison.Group, baseline: comparison.Group | None) -> dict[str, Any]:
    savings = {}
    if baseline is not None and baseline is not group:
        for key in comparison.COSTS:
            if found := comparison.saving(group, baseline, key):
                savings[key] = {"ratio": found.value, "low": found.low, "high": found.high}
    keys = (*comparison.COSTS, "accuracy", "loss", "mean_staleness")
    return {
        "setting": group.label,
        "algorithm": group.runs[0]["algorithm"],
        "runs": len(group.runs),
        "reached": len(group.reached),
        "seeds": [run["seed"] for run in group.runs],
        "mean": {key: group.mean(key) for key in keys},
        f"{comparison.BASELINE}_over_this": savings,
    }


def _console() -> Console:
    """As wide as the terminal; a pipe gets whole lines."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == int(value) or value >= 1000 else f"{value:,.2f}"


def _fraction(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _bytes(value: float | None) -> str:
    """Decimal units, as network links count."""
    if value is None:
        return "–"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def _ratio(saving: comparison.Ratio | None) -> str:
    if saving is None:
        return "–"
    interval = "" if saving.low is None else f" [{saving.low:.2f}, {saving.high:.2f}]"
    return f"{saving.value:.2f}×{interval}"


def main() -> None:
    """The console script."""
    app()
