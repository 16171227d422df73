"""What a suite has to do: its runs, and how each stands by the trace that is there.

The traces themselves are the memory of what is done: nothing else is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from qafel_mpi.config import ConfigError, Experiment, from_toml, load, to_toml, variants_of
from qafel_mpi.config_text import did_you_mean, toml_value
from qafel_mpi.trace.claim import holds_a_run
from qafel_mpi.trace.merge import read_run, shards_of
from qafel_mpi.trace.reader import TraceError, UnavailableError, open_trace
from qafel_mpi.trace_schema import SCHEMA_VERSION

TARGET_REACHED = "target reached"
COMPLETE = ("finished", TARGET_REACHED)
UNDER_WAY = "under way elsewhere"
DAMAGED = "damaged"


@dataclass(frozen=True)
class SuiteRun:
    """One run of a suite."""

    variant: str
    seed: int
    experiment: str  # TOML, presets resolved
    out: str  # the trace, an absolute path
    outcome: str = ""  # of the trace that is there, or of the attempt; empty: none yet
    seconds: float = math.nan  # wall time of the complete run
    checkpoint: str = ""  # that the attempt goes on from

    @property
    def name(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    @property
    def done(self) -> bool:
        return self.outcome in COMPLETE

    @property
    def failed(self) -> bool:
        return self.outcome.startswith("failed")

    @property
    def under_way(self) -> bool:
        """In another process, which has taken the trace's name."""
        return self.outcome.startswith(UNDER_WAY)


Resolve = Callable[[str, Sequence[str], str], Experiment]  # suite, overrides, variant


def plan(
    name: str,
    seeds: Sequence[int],
    out_dir: Path,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    resolve: Resolve = load,
    pick: int | None = None,
) -> list[SuiteRun]:
    """Every run of the suite, seed by seed, with what its trace says; all checked before the first begins.

    only: variants; all of them where empty. pick: of these runs the one with this number, from 0; the others'
    traces are not looked at. Raises ConfigError, also where a trace or shards are of another experiment.
    """
    variants = variants_of(name)
    if not variants:
        raise ConfigError([f"{name} has no variants: `qafel-mpi run {name}` runs it"])
    if unknown := [one for one in only if one not in variants]:
        raise ConfigError(f"--variant {one}: {did_you_mean(one, variants)}" for one in unknown)
    runs: list[SuiteRun] = []
    problems: list[str] = []
    pairs = list(product(seeds, dict.fromkeys(only) or variants))
    if pick is not None and pick >= len(pairs):
        raise ConfigError([f"--run {pick}: the suite has {len(pairs)} runs, 0 to {len(pairs) - 1}"])
    for seed, variant in pairs if pick is None else [pairs[pick]]:
        try:
            experiment = resolve(name, [*overrides, f"seed={seed}"], variant)
            out = (out_dir / f"{variant}-seed{seed}.h5").absolute()
            runs.append(with_trace(SuiteRun(variant, seed, to_toml(experiment), str(out)), name))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(dict.fromkeys(problems))  # a variant's are the same for every seed
    return runs


def with_trace(run: SuiteRun, name: str) -> SuiteRun:
    """The run with the outcome of the trace that is there.

    Raises ConfigError if it is another experiment's, or the shards of a run that was cut short are.
    """
    path = Path(run.out)
    try:
        _refuse_others_shards(run, name)
        if not path.exists():
            return run
        with open_trace(path, salvage=True) as trace:
            attributes, damaged = trace.attributes, bool(trace.notes)
    except UnavailableError as error:
        raise ConfigError(
            [f"{error}. The suite leaves the file alone: try again, or take another --out"]
        ) from None
    except (TraceError, OSError, RuntimeError, KeyError):  # h5py raises any of these on a broken file
        return replace(run, outcome=DAMAGED)
    version = int(attributes.get("schema_version", 0))
    if version > SCHEMA_VERSION:
        raise ConfigError(
            [f"{path}: schema version {version}: a newer qafel-mpi wrote it; choose another --out"]
        )
    if damaged:
        return replace(run, outcome=DAMAGED)
    _refuse_others(path, attributes, run, name, "delete the file to run it again")
    return replace(
        run, outcome=str(attributes.get("outcome", "")), seconds=float(attributes.get("seconds", math.nan))
    )


def _refuse_others_shards(run: SuiteRun, name: str) -> None:
    """Raises ConfigError where the folder of the run's shards holds those of another experiment's.

    UnavailableError where it can't be read. Shards of a run that was killed before it wrote its attributes are
    nobody's: they hold next to nothing.
    """
    shards = shards_of(Path(run.out))
    if not holds_a_run(shards):
        return
    try:
        attributes = read_run(shards)
    except UnavailableError:
        raise
    except TraceError:  # merged and removed by another process meanwhile
        return
    if attributes:
        _refuse_others(shards, attributes, run, name, f"`qafel-mpi merge {shards}`, and delete the folder")


def _refuse_others(path: Path, attributes: Mapping[str, Any], run: SuiteRun, name: str, remedy: str) -> None:
    stored = str(attributes.get("experiment", ""))
    if stored != run.experiment:
        difference = _difference(stored, run.experiment)
        raise ConfigError(
            [
                f"{path}: holds another experiment than {name}, {run.name}: {difference}; take another --out, or "
                f"{remedy}"
            ]
        )


def _difference(stored: str, wanted: str) -> str:
    """The settings that differ between two experiments, as far as a line can hold them."""
    try:
        there, here = (dict(_settings(_tables(text))) for text in (stored, wanted))
    except ConfigError:
        return "this version can't read its experiment"
    keys = [key for key in here | there if here.get(key) != there.get(key)]
    parts = [f"{key} is {_text(there, key)} there and {_text(here, key)} here" for key in keys[:3]]
    more = f", and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(parts) + more if parts else "it is written differently"


def _tables(toml: str) -> dict[str, Any]:
    return from_toml(toml).model_dump(mode="json", exclude_none=True)


def _settings(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _text(settings: Mapping[str, Any], key: str) -> str:
    return toml_value(settings[key]) if key in settings else "not set"


def estimate(runs: Sequence[SuiteRun]) -> float:
    """Seconds that the runs that are left may take, from those that are complete; nan while there are none.

    A run takes as long as its variant's others, or as the mean of all where its variant has none yet.
    """
    known: dict[str, list[float]] = {}
    for run in runs:
        if run.done and math.isfinite(run.seconds):
            known.setdefault(run.variant, []).append(run.seconds)
    if not known:
        return math.nan
    everything = [s for seconds in known.values() for s in seconds]
    left = (known.get(run.variant, everything) for run in runs if not run.done and not run.failed)
    return sum(sum(seconds) / len(seconds) for seconds in left)


def standing(runs: Sequence[SuiteRun]) -> str:
    """How far a suite is.

    >>> standing([SuiteRun("a", 0, "", "", "finished", 90.0), SuiteRun("a", 1, "", "")])
    '1 of 2 done, 1 left: about 2 min'
    """
    done, failed = sum(run.done for run in runs), sum(run.failed for run in runs)
    left = len(runs) - done - failed
    seconds = estimate(runs)
    known = f": {_duration(seconds)}" if left and math.isfinite(seconds) else ""
    return f"{done} of {len(runs)} done, {f'{failed} failed, ' if failed else ''}{left} left{known}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"about {seconds:.0f} s"
    minutes = seconds / 60
    return f"about {minutes:.0f} min" if minutes < 90 else f"about {minutes / 60:.1f} h"
