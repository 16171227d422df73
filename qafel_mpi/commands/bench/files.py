"""`qafel-mpi bench check` and `compare`: what is done with the files of benchmarks.

numpy and h5py are imported inside the commands.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qafel_mpi.commands import show
from qafel_mpi.commands.bench.measure import cell, label
from qafel_mpi.commands.process import ExitCode
from qafel_mpi.config_text import ConfigError
from qafel_mpi.outputs import in_the_way, whole
from qafel_mpi.parsing import visible

if TYPE_CHECKING:
    from qafel_mpi.bench.measuring.result import Result


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A benchmark's result: JSON or HDF5.")],
) -> None:
    """List the times and ratios that are not reliable, and why: spread, outliers, too few samples, two modes, drift.

    A ratio is judged by the ratios of the single rounds: what disturbed both sides alike does not count against it.
    The exit code is 4 if anything is unreliable, or if rows are missing because the benchmark ended early.
    """
    from qafel_mpi.bench.measuring.check import doubts, summary

    result = _read(file)
    found = [(row, doubt) for row in result.rows for doubt in doubts(row)]
    for row, doubt in found:
        print(f"{label(row)}: {doubt.claim}: {doubt.reason}")
    print(summary(result.rows))
    if result.incomplete:
        print(f"rows are missing: {result.incomplete}")
    sys.exit(ExitCode.TARGET_NOT_REACHED if found or result.incomplete else ExitCode.DONE)


def compare(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B",
            help="A benchmark's result, or a folder of several launches' results, and the one to compare with it. "
            "With --history: any number of either.",
            show_default=False,
        ),
    ],
    unlike_hosts: Annotated[
        bool, typer.Option("--unlike-hosts", help="Compare results of different machines too.")
    ] = False,
    history: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE.html",
            help="Follow every row through all results in time, list its changes, and write a page of the series.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the history as JSON.")] = False,
) -> None:
    """Compare two results row by row: B's median time over A's, with a 95% interval and the doubts that `check` has.

    In a folder every file is one launch, and the interval includes what differs from launch to launch. Results from
    different machines or MPI settings are refused with exit code 2. With --history the results are series in time, by
    the date that they hold, and Apache Otava finds where one changed.
    """
    if history is not None:
        _history([file for path in results for file in _files(path)], history, unlike_hosts, as_json)
        return
    if len(results) != 2 or as_json:
        raise typer.BadParameter(
            "give two results, A and B, or --history PAGE.html and any number of results"
        )
    a, b = results
    from qafel_mpi.bench.measuring import compare as pairs

    first, second = _launches(a), _launches(b)
    _refuse_unlike([*first, *second], f"{a} and {b}", unlike_hosts)
    both, alone = pairs.compare(first, second)
    rows = [
        {
            "row": " ".join([p.bench, *(f"{k}={v}" for k, v in p.parameters.items())]),
            "A us": cell(p.a_us),
            "B us": cell(p.b_us),
            "B/A": f"{p.change:.3f}",
            "95%": f"[{p.change_interval[0]:.3f}, {p.change_interval[1]:.3f}]",
            "": p.verdict,
        }
        for p in both
    ]
    for line in pairs.caveats(len(first), len(second), len(both)):
        print(f"# {line}")
    print(show.table(rows) or "no row is in both results")
    for row in alone:
        print(f"only in one of the results: {label(row)}", file=sys.stderr)


def _refuse_unlike(results: Sequence[Result], named: str, anyway: bool) -> None:
    """Ends the command where they are of different machines."""
    from qafel_mpi.bench.measuring import compare as pairs

    differ = pairs.unlike(results)
    if differ and not anyway:
        text = f"{named} come from different machines or settings; --unlike-hosts compares them anyway"
        print(text, file=sys.stderr)
    for line in differ:
        print(f"  {line}", file=sys.stderr)
    if differ and not anyway:
        sys.exit(ExitCode.USAGE)


def _history(files: Sequence[Path], page: Path, unlike_hosts: bool, as_json: bool) -> None:
    from qafel_mpi.bench.measuring import history
    from qafel_mpi.bench.measuring.history_page import page as html
    from qafel_mpi.bench.measuring.result import ResultError

    results = [(file, _read(file)) for file in files]
    _refuse_unlike([result for _, result in results], f"{len(results)} results", unlike_hosts)
    if why := in_the_way(page, files):
        raise ConfigError([f"--history {why}"])
    try:
        found = history.series(results)
        with whole(page) as part:
            part.write_text(html(found), encoding="utf-8", errors="backslashreplace")
    except (ResultError, history.MissingPackage) as error:
        raise ConfigError([str(error)]) from None
    except OSError as error:
        raise ConfigError([f"{error.filename or page}: {error.strerror}"]) from None
    if as_json:
        content = {"schema_version": history.SCHEMA_VERSION, "series": [one.as_json() for one in found]}
        print(json.dumps(content, indent=1))
        return
    rows = [
        {
            "since": one.points[change.index].started[:16],
            "commit": one.points[change.index].commit[:10] or None,
            "row": f"{one.label} {one.column}",
            "before": cell(change.before),
            "after": cell(change.after),
            "change": f"{change.change:+.1%}",
            "p": f"{change.p_value:.1g}",
        }
        for one in found
        for change in one.changes
    ]
    print(show.table(sorted(rows, key=lambda row: str(row["since"]))) or "no change was found")
    print(f"{page}: {len(files)} files, {len(found)} series")


def _files(path: Path) -> list[Path]:
    """Of a file, itself; of a folder, its JSON and HDF5 files, of a.json and a.h5 one."""
    files = {path.stem: path}
    if path.is_dir():
        files = {file.stem: file for file in visible(path, "*") if file.suffix in (".json", ".h5")}
    if not files:
        raise ConfigError([f"{path}: it contains neither .json nor .h5 files"])
    return list(files.values())


def _launches(path: Path) -> list[Result]:
    """Of a file, one; of a folder, its JSON and HDF5 files, each one."""
    results = []
    for file in _files(path):
        results.append(_read(file))
        if why := results[-1].incomplete:
            print(f"{file}: rows are missing: {why}", file=sys.stderr)
    return results


def _read(path: Path) -> Result:
    from qafel_mpi.bench.measuring.result import ResultError, read

    try:
        return read(path)
    except ResultError as error:
        raise ConfigError([str(error)]) from None
