"""`qafel-mpi bench check` and `compare`: what is done with the files of benchmarks.

numpy and h5py are imported inside the commands.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qafel_mpi.commands import show
from qafel_mpi.commands.bench.measure import cell, label
from qafel_mpi.commands.process import ExitCode
from qafel_mpi.config_text import ConfigError
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
    a: Annotated[
        Path,
        typer.Argument(metavar="A", help="A benchmark's result, or a folder of several launches' results."),
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="The result to compare with it.")],
    unlike_hosts: Annotated[
        bool, typer.Option("--unlike-hosts", help="Compare results of different machines too.")
    ] = False,
) -> None:
    """Compare two results row by row: B's median time over A's, with a 95% interval and the doubts that `check` has.

    In a folder every file is one launch, and the interval includes what differs from launch to launch. Results from
    different machines or MPI settings are refused with exit code 2.
    """
    from qafel_mpi.bench.measuring import compare as pairs

    first, second = _launches(a), _launches(b)
    differ = pairs.unlike([*first, *second])
    if differ and not unlike_hosts:
        print(
            f"{a} and {b} come from different machines or settings; --unlike-hosts compares them anyway",
            file=sys.stderr,
        )
    for line in differ:
        print(f"  {line}", file=sys.stderr)
    if differ and not unlike_hosts:
        sys.exit(ExitCode.USAGE)
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


def _launches(path: Path) -> list[Result]:
    """Of a file, one; of a folder, its JSON and HDF5 files, each one."""
    files = {path.stem: path}
    if path.is_dir():  # a.json and a.h5 are one launch
        files = {file.stem: file for file in visible(path, "*") if file.suffix in (".json", ".h5")}
    if not files:
        raise ConfigError([f"{path}: it contains neither .json nor .h5 files"])
    results = []
    for file in files.values():
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
