"""`qafel-mpi bench references` and `reframe`: results as references, and as what ReFrame reads.

numpy and h5py are imported inside the commands.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qafel_mpi.commands.process import ExitCode
from qafel_mpi.config_text import ConfigError

if TYPE_CHECKING:
    from qafel_mpi.bench.measuring.result import Result, Row

Results = Annotated[
    list[Path],
    typer.Argument(
        metavar="RESULT...", help="Results of `qafel-mpi bench` (JSON or HDF5), and traces of runs."
    ),
]


def references(
    results: Results,
    system: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Hosts meant, with wildcards. Default: the results' own host."),
    ] = None,
    within: Annotated[
        float,
        typer.Option(min=0.0, help="How much worse a value may be, as a fraction of what was measured."),
    ] = 0.1,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A column to hold. Can be repeated. Default: a rate or the median."
        ),
    ] = None,
) -> None:
    """Write references, as `--reference` takes them, from results: what was measured is the target of each row.

    Ratios (`--column ratio`) are steadier than times where other work runs on the machine.
    """
    from qafel_mpi.bench.measuring import targets

    read = _read(results)
    where = system or _system(read)
    try:
        found = targets.measured(_rows(read), where, within, column or ())
    except ValueError as error:
        raise ConfigError([f"--column: {error}"]) from None
    print(targets.as_toml(found), end="")


def reframe(
    results: Results,
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.toml", help="References, as `bench` takes them. Can be repeated. Default: none."
        ),
    ] = None,
) -> None:
    """Write results and their references as ReFrame's performance variables, in JSON.

    jobs/site/reframe_qafel.py reads it. ReFrame's bounds are then those of `--reference`. A reference of this system
    that means no row, or no column of it, is refused with exit code 2; wrong content has exit code 3.
    """
    from qafel_mpi.bench.measuring.references import elsewhere, load
    from qafel_mpi.bench.measuring.reframe import variables

    read = _read(results)
    rows, system = _rows(read), _system(read)
    known = [one for path in reference or () for one in load(path)]
    found = variables(rows, known, system)
    if remark := elsewhere(known, rows, system):
        print(f"# {remark}", file=sys.stderr)
    print(json.dumps({"version": 1, "system": system, "variables": found}, indent=1))
    if wrong := [row for row in rows if row.wrong]:
        from qafel_mpi.commands.bench.measure import label

        print("\n".join(f"{label(row)}: wrong content: {row.wrong}" for row in wrong), file=sys.stderr)
        sys.exit(ExitCode.FAILED)


def _read(paths: Sequence[Path]) -> list[Result]:
    from qafel_mpi.bench.measuring.result import ResultError, read
    from qafel_mpi.bench.measuring.runs import is_run, read_run

    try:
        found = [read_run(path) if is_run(path) else read(path) for path in paths]
    except ResultError as error:
        raise ConfigError([str(error)]) from None
    for path, result in zip(paths, found, strict=True):
        if result.incomplete:
            raise ConfigError([f"{path}: rows are missing: {result.incomplete}"])
    return found


def _rows(results: Sequence[Result]) -> list[Row]:
    return [row for result in results for row in result.rows]


def _system(results: Sequence[Result]) -> str:
    """The host of all. Raises ConfigError where there are several."""
    from qafel_mpi.bench.measuring.references import system_of

    systems = list(dict.fromkeys(system_of(result.provenance) for result in results))
    if len(systems) > 1:
        raise ConfigError([f"results of several systems: {', '.join(systems)}; give those of one at a time"])
    return systems[0]
