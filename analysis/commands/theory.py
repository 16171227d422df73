"""The command `theory`."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

import typer
from qafel_analysis.commands.options import NOTHING_READ, AsJson, AsMarkdown, Runs, say
from qafel_analysis.commands.read import each_run
from qafel_analysis.commands.record import Note, Record, record
from qafel_analysis.tables.grid import NOTHING, Grid, number, spread, to_markdown, to_terminal
from qafel_analysis.theory import orders as study

MEASURED = (
    "Measured: the mean of ‖∇f(x^t)‖² over the evaluated steps t < T of each run; δ = 1 − ‖Q(v) − v‖²/‖v‖², δ_s of "
    "every step, δ_c of every upload (where trace.encoding_error was set). Intervals: 95%, Student's t over seeds."
)
CLAIMED = (
    "Claimed by the paper, for smooth non-convex f, bounded staleness and large T: the whole, and the errors of "
    "quantizers and staleness, O(1/√T) at most (slope −1/2 or steeper); the cross term of staleness and quantization "
    "O(1/T) (slope −1 or steeper). A slope over a few T can speak against such a bound; it can't prove it."
)


def theory(
    runs: Runs,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
    kept: Record = None,
    note: Note = "",
) -> None:
    """Estimate the effects of quantization, staleness and T on the squared gradient norm, beside the paper's orders.

    The runs must be a factorial set, such as the suite cross-term makes: exact and quantized, fresh and stale, at
    several T (stop.steps), with trace.gradient_norm = true.
    """
    points = each_run(runs, study.point)
    try:
        found = study.study(points)
    except study.StudyError as error:
        say([error])
        raise typer.Exit(NOTHING_READ) from error
    content = as_object(found)
    record(kept, note, "theory", content, runs)
    if as_json:
        print(json.dumps(content, indent=1))
        return
    show = (lambda one: print(to_markdown(one))) if as_markdown else to_terminal
    print(MEASURED + "\n")
    show(measured_grid(found))
    show(effects_grid(found))
    print(CLAIMED + "\n")
    if found.with_t:
        print(f"With T change also: {', '.join(found.with_t)}.\n")
    show(slopes_grid(found))


def measured_grid(found: study.Study) -> Grid:
    """One row a cell of the factorial set."""
    cells: dict[tuple[Any, ...], list[study.Point]] = defaultdict(list)
    for p in found.points:
        cells[p.steps, -p.bits, p.quantization, round(p.staleness, 1)].append(p)
    rows = []
    for (steps, _, quantization, _), own in sorted(cells.items()):
        gradients = [p.gradient for p in own]
        client = [p.delta_c for p in own if p.delta_c is not None]
        delta = [p.delta_s for p in own if p.delta_s is not None]
        smallest = [p.smallest_delta_s for p in own if p.smallest_delta_s is not None]
        rows.append(
            (
                quantization,
                number(steps),
                f"{fmean(p.staleness for p in own):.2f}",
                number(len(own)),
                spread(fmean(gradients), stdev(gradients) if len(own) > 1 else None),
                f"{fmean(client):.3f}" if client else NOTHING,
                f"{fmean(delta):.3f}" if delta else NOTHING,
                f"{min(smallest):.3f}" if smallest else NOTHING,
            )
        )
    headings = (
        "quantization",
        "T",
        "mean\nstaleness",
        "runs",
        "mean of ‖∇f‖²",
        "δ_c, mean",
        "δ_s, mean",
        "δ_s, smallest",
    )
    return Grid("What the runs measured, by cell; ± standard deviation over seeds", headings, tuple(rows))


def effects_grid(found: study.Study) -> Grid:
    """One row an effect and T."""
    rows = tuple(
        (
            e.name,
            e.quantization,
            f"{e.staleness:.2f}",
            number(e.steps),
            interval(e.estimate, "{:.4g}"),
            "yes" if e.estimate.told_from_zero else ("no" if e.estimate.low is not None else NOTHING),
        )
        for e in sorted(
            found.effects, key=lambda e: (e.quantization, e.staleness, list(study.CLAIMS).index(e.name))
        )
    )
    headings = ("effect", "quantization", "mean\nstaleness", "T", "on mean of ‖∇f‖² [95%]", "told from\nzero")
    caption = (
        "Effects. Quantization and staleness: means over the other factor's two levels; interaction: what the two do "
        "together beyond the sum of what each does alone"
    )
    return Grid(caption, headings, rows, texts=2)


def slopes_grid(found: study.Study) -> Grid:
    rows = tuple(
        (
            s.name,
            s.quantization,
            f"{s.staleness:.2f}",
            NOTHING if s.slope is None else interval(s.slope, "{:.2f}"),
            f"≤ {s.claimed:g}",
            s.verdict,
        )
        for s in found.slopes
    )
    headings = ("effect", "quantization", "mean\nstaleness", "slope [95%]", "claimed", "")
    return Grid("Slopes of log effect against log T", headings, rows, texts=2)


def interval(estimate: study.Estimate, form: str) -> str:
    """A number and, where there is one, its interval."""
    words = form.format(estimate.value)
    if estimate.low is None or estimate.high is None:
        return words
    return f"{words} [{form.format(estimate.low)}, {form.format(estimate.high)}]"


def as_object(found: study.Study) -> dict[str, Any]:
    """The study as JSON can say it; bits are null where nothing is quantized."""
    points = [
        {k: v for k, v in asdict(p).items() if k != "settings"}
        | {"bits": p.bits if p.bits < float("inf") else None}
        for p in found.points
    ]
    return {
        "measured": MEASURED,
        "claimed": CLAIMED,
        "with_t": found.with_t,
        "runs": points,
        "effects": [asdict(e) for e in found.effects],
        "slopes": [asdict(s) for s in found.slopes],
    }
