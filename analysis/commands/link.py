"""The command `link`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from qafel_analysis.commands.options import NOTHING_READ, Accuracy, Loss, Runs, say
from qafel_analysis.commands.read import read
from qafel_analysis.commands.record import Note, Record, record
from qafel_analysis.tables import compare
from qafel_analysis.tables.grid import to_markdown, to_terminal
from qafel_analysis.theory import link as study


def link(
    runs: Runs,
    between_ms: Annotated[
        float,
        typer.Option(
            min=1e-6,
            metavar="MS",
            help="From the end of one training to that of the next, over all clients: a training's time over the "
            "clients that train at a time.",
        ),
    ],
    mbit: Annotated[
        str, typer.Option(metavar="LIST", help="Rates of the server's link, each way, in Mbit/s.")
    ] = "10,100,1000,10000",
    as_json: Annotated[bool, typer.Option("--json", help="Print all settings as JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    target_accuracy: Accuracy = None,
    target_loss: Loss = None,
    kept: Record = None,
    note: Note = "",
) -> None:
    """Show which setting would reach the target first on links of these rates, and which are as fast.

    From counted uploads and bytes: the runs may be of the virtual clock. The server's one link carries all messages,
    a broadcast once; encoding and decoding take no time. Settings with a run that missed the target, or began
    at it, are left out.
    """
    groups = compare.groups(read(runs, target_accuracy, target_loss))
    missed = [(one, sum(not run["uploads_to_target"] for run in one.runs)) for one in groups]
    settings = [study.setting(one) for one, count in missed if not count]
    say(
        f"{one.label}: left out, for {count} of {len(one.runs)} runs missed the target, or began at it"
        for one, count in missed
        if count
    )
    if not settings:
        raise typer.Exit(NOTHING_READ)
    between_s = between_ms / 1e3
    found = {rate: study.rated(settings, rate, between_s) for rate in _rates(mbit)}
    content = study.as_json(found, between_s)
    record(kept, note, "link", content, runs)
    if as_json:
        print(json.dumps(content, indent=1))
        return
    grid = study.link_grid(found, between_s)
    print(to_markdown(grid)) if as_markdown else to_terminal(grid)


def _rates(text: str) -> list[float]:
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or min(rates) <= 0:
        raise typer.BadParameter(f"--mbit {text}: not rates above 0, e.g. 10,100")
    return rates
