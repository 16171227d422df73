"""The command `suite`: all variants and seeds of an experiment, one trace a run, resumed where it stopped."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qafel_mpi import cli_run as launch
from qafel_mpi import cli_show as show
from qafel_mpi.cli_job import ExitCode
from qafel_mpi.config_text import ConfigError, did_you_mean

if TYPE_CHECKING:
    from mpi4py import MPI

Run = dict[str, Any]  # variant, seed, name, experiment (TOML), out, done


def plan(name: str, seeds: str, only: list[str], settings: list[str], out: Path, alone: bool) -> list[Run]:
    """Every run of the suite, seed by seed, checked before the first begins. Raises ConfigError."""
    from qafel_mpi.config import to_toml, variants_of

    variants = variants_of(name)
    if not variants:
        raise ConfigError([f"{name} has no variants: `qafel-mpi run {name}` runs it"])
    if unknown := [one for one in only if one not in variants]:
        raise ConfigError([f"--variant {one}: {did_you_mean(one, variants)}" for one in unknown])
    runs: list[Run] = []
    problems: list[str] = []
    for seed, variant in product(parse_seeds(seeds), only or variants):
        try:
            toml = to_toml(launch.resolve(name, [*settings, f"seed={seed}"], variant, alone))
            path = (out / f"{variant}-seed{seed}.h5").absolute()
            run = {"variant": variant, "seed": seed, "name": f"{variant}, seed {seed}", "out": str(path)}
            runs.append(run | {"experiment": toml, "done": _is_done(path, toml)})
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(dict.fromkeys(problems))  # a variant's are the same for every seed
    return runs


def parse_seeds(text: str) -> list[int]:
    """The seeds of a list with ranges. Raises ConfigError.

    >>> parse_seeds("0-2,7")
    [0, 1, 2, 7]
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ConfigError([f"--seeds {text}: not a list like 0-4 or 0,3,7"])
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(seeds))


def _is_done(path: Path, experiment: str) -> bool:
    """Whether a complete trace of this very experiment is there. Raises ConfigError if it is of another."""
    if not path.exists():
        return False
    attributes = _attributes(path)
    if attributes.get("experiment") != experiment:
        raise ConfigError(
            [f"{path}: was run with other settings; take another --out, or delete it to run it again"]
        )
    return not str(attributes.get("outcome", "")).startswith("interrupted")


def _attributes(path: Path) -> dict[str, Any]:
    from qafel_mpi.trace.reader import open_trace

    with open_trace(path) as trace:
        return trace.attributes


def run_all(
    runs: list[Run], comm: MPI.Intracomm | None, data_dir: Path, interrupted: Callable[[], bool]
) -> ExitCode:
    """Collective: what is left of the runs, one after the other. Stops at an interrupt."""
    speaks = comm is None or comm.rank == 0
    left = [run for run in runs if not run["done"]]
    begun_s = time.monotonic()
    code = ExitCode.DONE
    for number, run in enumerate(left, 1):
        if speaks:
            launch.make_room(Path(run["out"]), overwrite=True)
        result = launch.drive(run, comm, data_dir, interrupted)
        run["done"] = not result.interrupted
        remaining_s = (time.monotonic() - begun_s) / number * (len(left) - number)
        done = len(runs) - len(left) + number
        print(
            f"[{done}/{len(runs)}] {run['name']}: {result.outcome}, {result.uploads:,} uploads; "
            f"{_duration(remaining_s)} left",
            file=sys.stderr,
            flush=True,
        )
        if result.interrupted:
            return ExitCode.INTERRUPTED
        if result.outcome.startswith("failed"):
            code = ExitCode.FAILED
    return code


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"about {seconds:.0f} s"
    return f"about {minutes:.0f} min" if minutes < 90 else f"about {minutes / 60:.1f} h"


def overview(runs: list[Run]) -> str:
    """A line a run: what is done, with its result, and what is left; at the end what that may take."""
    rows: list[dict[str, Any]] = []
    seconds: list[float] = []
    for run in runs:
        row: dict[str, Any] = {"variant": run["variant"], "seed": run["seed"]}
        found = _attributes(Path(run["out"])) if run["done"] else {}
        if run["done"]:
            seconds.append(float(found["seconds"]))
        target = int(found.get("uploads_to_target", -1))
        row |= {
            "outcome": found.get("outcome", "left to run"),
            "uploads": found.get("uploads"),
            "to target": target if target >= 0 else None,
            "accuracy": f"{found['accuracy']:.4f}" if found else None,
            "loss": f"{found['loss']:.6g}" if found else None,
            "MB up": f"{found['payload_bytes_up'] / 1e6:.2f}" if found else None,
        }
        rows.append(row)
    left = len(runs) - len(seconds)
    estimate = f", {_duration(sum(seconds) / len(seconds) * left)}" if left and seconds else ""
    return f"{show.table(rows)}\n{len(seconds)} done, {left} left{estimate}"
