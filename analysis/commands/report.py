"""The command `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from qafel_analysis.commands.options import NOTHING_READ, Accuracy, Loss, Runs, refuse, say, target_of


def report(
    runs: Runs,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    details: Annotated[
        int, typer.Option(min=0, help="Number of runs with figures of their timeline, links and latency.")
    ] = 2,
    target_accuracy: Accuracy = None,
    target_loss: Loss = None,
) -> None:
    """Write one self-contained page: findings, sortable tables, zoomable figures, configurations.

    It needs no network and opens in any browser. It lists the files that can't be read. The command prints its name.
    """
    refuse("--out", out, runs)
    from qafel_analysis.report import page as reporting

    found = reporting.write(runs, out, target_of(target_accuracy, target_loss), detailed=details)
    say(found.failures)
    say(found.notes)
    if not found.drawn:
        raise typer.Exit(NOTHING_READ)
    print(out)
