"""The commands `scaling`, `broadcast` and `pace`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from qafel_analysis.commands.options import NOTHING_READ, AsJson, AsMarkdown, Runs, say
from qafel_analysis.commands.read import each, each_run
from qafel_analysis.commands.record import Note, Record, record
from qafel_analysis.tables.grid import Grid, to_markdown, to_terminal
from qafel_analysis.theory import scaling as study
from qafel_analysis.theory import scaling_paper as paper

from qafel_mpi.trace.reader import TraceError

if TYPE_CHECKING:
    from qafel_analysis.theory.loggp import LogGP, Observation


def scaling(
    runs: Runs,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
    train_seconds: Annotated[
        float | None,
        typer.Option(
            metavar="T", help="For the projection: seconds of one update. Default: the largest run's median."
        ),
    ] = None,
    link_gbit: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            metavar="GBIT",
            help="For the projection: rank 0's link, each way. Default: the fitted value, or 100.",
        ),
    ] = None,
    benches: Annotated[
        list[Path] | None,
        typer.Option(
            "--bench",
            metavar="FILE",
            help="Results of `bench p2p` and `bench broadcast`, to fit the network's costs.",
        ),
    ] = None,
    kept: Record = None,
    note: Note = "",
) -> None:
    """Show the efficiency over ranks, and project rank 0's costs to 10,000 ranks.

    The costs are those of the first wall run with the most ranks. With --bench, the network's costs come from a LogGP
    model that is fitted to benchmarks. If K grew with the clients in these runs, it also grows in the projection.
    """
    points = each_run(runs, study.point)
    wall = [p for p in points if p.driver == "wall"]
    network = _fitted(benches)[0] if benches else None
    gbit = link_gbit or (8e-9 / network.G if network else paper.LINK_GBIT)
    costs = None
    if wall:
        grows = len({p.workers for p in wall}) > 1 and all(p.buffer_size == p.workers for p in wall)
        try:
            costs = paper.costs(Path(max(wall, key=lambda p: p.ranks).run), buffer_grows=grows)
            costs = paper.on_network(costs, network) if network else costs
        except TraceError as error:
            say([error])
    try:
        sizes = study.measured(points)
    except study.StudyError as error:
        say([error])
        raise typer.Exit(NOTHING_READ) from error
    found: dict[str, Any] = {"measured": study.as_json(sizes)}
    grids = [study.measured_grid(sizes)]
    if costs is not None:
        train_s = train_seconds or costs.train_s
        found["paper"] = paper.as_json(costs, train_s=train_s, link_gbit=gbit, network=network)
        grids.append(paper.paper_grid(costs, train_s=train_s, link_gbit=gbit, network=network))
    record(kept, note, "scaling", found, [*runs, *(benches or [])])
    if as_json:
        print(json.dumps(found, indent=1))
        return
    _print(grids, as_markdown)


def broadcast(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE.json...", help="Results of `bench p2p` and `bench broadcast`."),
    ],
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
    latency_us: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="US", help="For the projection: the network's latency. Default: the fitted one."
        ),
    ] = None,
    link_gbit: Annotated[
        float | None,
        typer.Option(
            min=1e-6, metavar="GBIT", help="For the projection: a rank's link. Default: the fitted one."
        ),
    ] = None,
    poll_ms: Annotated[
        float,
        typer.Option(
            min=0, metavar="MS", help="For the projection: how often a training client looks for messages."
        ),
    ] = 5.0,
    kept: Record = None,
    note: Note = "",
) -> None:
    """Fit a LogGP model to benchmarks, and project each broadcast algorithm's cost to 10,000 ranks."""
    from qafel_analysis.theory import loggp  # scipy: `--help` does without it

    fitted, seen = _fitted(files)
    network = loggp.on_link(fitted, latency_us=latency_us, link_gbit=link_gbit)
    found = loggp.as_json(fitted, network, seen, poll_s=1e-3 * poll_ms)
    record(kept, note, "broadcast", found, files)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    _print([loggp.fit_grid(fitted, seen), loggp.paper_grid(network, poll_s=1e-3 * poll_ms)], as_markdown)


def pace(
    runs: Runs,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
    kept: Record = None,
    note: Note = "",
) -> None:
    """Show seconds per server step and to the target against FedBuff, bytes, and what a step spends its time on."""
    from qafel_analysis.theory import pace as study

    found = study.settings_of(each_run(runs, study.pace))
    content = study.as_json(found)
    record(kept, note, "pace", content, runs)
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        _print([study.pace_grid(found)], as_markdown)


def _fitted(files: Sequence[Path]) -> tuple[LogGP, list[Observation]]:
    """The network that benchmarks show; where they don't, that is said and the command ends."""
    from qafel_analysis.read.bench import read_bench
    from qafel_analysis.theory import loggp

    benches = [one for own in each(files, read_bench) for one in own]
    try:
        seen = loggp.observations(benches)
        return loggp.fit(seen), seen
    except TraceError as error:
        say([error])
        raise typer.Exit(NOTHING_READ) from error


def _print(grids: Sequence[Grid], as_markdown: bool) -> None:
    for one in grids:
        if as_markdown:
            print(to_markdown(one))
        else:
            to_terminal(one)
