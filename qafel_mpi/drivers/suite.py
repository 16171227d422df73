"""A suite: all variants and seeds of an experiment, one trace a run, resumed where it stopped.

The traces themselves are the memory of what is done: nothing else is written. Rank 0 alone looks at them.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qafel_mpi.config import ConfigError, Experiment, from_toml, load, to_toml, variants_of
from qafel_mpi.config_text import did_you_mean, toml_value
from qafel_mpi.drivers.build import Interrupted, RunSummary
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.trace.reader import TraceError, open_trace
from qafel_mpi.trace_schema import SCHEMA_VERSION
from qafel_mpi.transport.exchange import all_come, broadcast_text
from qafel_mpi.transport.handshake import HandshakeError
from qafel_mpi.transport.placement import PlacementError

if TYPE_CHECKING:
    from mpi4py import MPI

AGREE_SECONDS = 10.0  # a rank whose run failed waits so long for all others to fail alike
OF_THE_JOB = (
    HandshakeError,
    PlacementError,
    DataError,
)  # hosts, folders, data: the next run would fail alike
TARGET_REACHED = "target reached"
COMPLETE = ("finished", TARGET_REACHED)


@dataclass(frozen=True)
class SuiteRun:
    """One run of a suite."""

    variant: str
    seed: int
    experiment: str  # TOML, presets resolved
    out: str  # the trace, an absolute path
    outcome: str = ""  # of the trace that is there, or of the attempt; empty: none yet
    seconds: float = math.nan  # wall time of the complete run

    @property
    def name(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    @property
    def done(self) -> bool:
        return self.outcome in COMPLETE

    @property
    def failed(self) -> bool:
        return self.outcome.startswith("failed")


@dataclass
class SuiteResult:
    """Where a suite stands when run_suite ends; the same on every rank."""

    runs: list[SuiteRun]
    interrupted: bool = False
    failed: list[SuiteRun] = field(default_factory=list)  # in this call


Resolve = Callable[[str, Sequence[str], str], Experiment]  # suite, overrides, variant
Drive = Callable[[SuiteRun, "MPI.Intracomm | None"], RunSummary]  # collective: one run, and its trace


# --- what is to do ----------------------------------------------------------------------------------


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
    traces are not looked at. Raises ConfigError, also where a trace is of another experiment.
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
            runs.append(_with_trace(SuiteRun(variant, seed, to_toml(experiment), str(out)), name))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(dict.fromkeys(problems))  # a variant's are the same for every seed
    return runs


def _with_trace(run: SuiteRun, name: str) -> SuiteRun:
    """The run with the outcome of the trace that is there. Raises ConfigError if it is another experiment's."""
    path = Path(run.out)
    if not path.exists():
        return run
    try:
        with open_trace(path, salvage=True) as trace:
            attributes, damaged = trace.attributes, bool(trace.notes)
    except (TraceError, OSError, RuntimeError, KeyError):  # h5py raises any of these on a broken file
        return replace(run, outcome="damaged")
    version = int(attributes.get("schema_version", 0))
    if version > SCHEMA_VERSION:
        raise ConfigError(
            [f"{path}: schema version {version}: a newer qafel-mpi wrote it; take another --out"]
        )
    if damaged:
        return replace(run, outcome="damaged")
    stored = str(attributes.get("experiment", ""))
    if stored != run.experiment:
        raise ConfigError(
            [
                f"{path}: holds another experiment than {name}, {run.name}: {_difference(stored, run.experiment)}; "
                "take another --out, or delete the file to run it again"
            ]
        )
    return replace(
        run, outcome=str(attributes.get("outcome", "")), seconds=float(attributes.get("seconds", math.nan))
    )


def _difference(stored: str, wanted: str) -> str:
    """The settings that differ between two experiments, as far as a line can hold them."""
    try:
        there, here = (dict(_settings(_tables(text))) for text in (stored, wanted))
    except ConfigError:
        return "what it says of its experiment can't be read by this version"
    keys = [key for key in here | there if here.get(key) != there.get(key)]
    parts = [f"{key} is {_text(there, key)} in it and {_text(here, key)} here" for key in keys[:3]]
    more = f", and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(parts) + more if parts else "it is written otherwise"


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


# --- doing it ---------------------------------------------------------------------------------------


def run_suite(
    name: str,
    seeds: Sequence[int],
    out_dir: Path,
    overrides: Sequence[str],
    comm: MPI.Intracomm | None,
    *,
    drive: Drive,
    only: Sequence[str] = (),
    pick: int | None = None,
    resolve: Resolve = load,
    interrupted: Interrupted = lambda: False,
    say: Callable[[str], None] = lambda line: None,
) -> SuiteResult:
    """Collective: what is left of the suite, one run after the other; a run that failed does not end it.

    drive: one run, with a communicator of its own. interrupted: rank 0's answer counts, between runs too.
    say: is told on every rank how far the suite is. Raises ConfigError on every rank alike, also where a run fails
    for what is wrong with the job's hosts or data: that ends the suite. What needs more ranks than there are is said
    to be skipped, and is not in the result.
    """
    runs = _shared(
        comm, lambda: _prepared(plan(name, seeds, out_dir, overrides, only, resolve, pick), out_dir)
    )
    runs = _that_fit(runs, 1 if comm is None else comm.size, say)
    result = SuiteResult([run if run.done else _left(run) for run in runs])
    say(f"{name}: {standing(result.runs)}")
    for index, run in enumerate(result.runs):
        if run.done:
            continue
        if _everyone_hears(comm, interrupted):
            result.interrupted = True
            break
        begun_s = time.monotonic()
        summary = _attempt(run, drive, comm)
        if summary.interrupted:
            result.interrupted = True
            break
        ended = replace(run, outcome=summary.outcome, seconds=time.monotonic() - begun_s)
        result.runs[index] = ended
        if ended.failed:
            result.failed.append(ended)
        say(f"{ended.name}: {ended.outcome}, {summary.uploads:,} uploads; {standing(result.runs)}")
    return result


def _that_fit(runs: list[SuiteRun], ranks: int, say: Callable[[str], None]) -> list[SuiteRun]:
    """Those that are done or need no more than so many ranks. Raises ConfigError where none is."""
    wanted = {run.variant: from_toml(run.experiment).transport.ranks or 0 for run in runs if not run.done}
    skipped = [variant for variant, least in wanted.items() if least > ranks]
    fit = [run for run in runs if run.done or run.variant not in skipped]
    if not fit:
        least = min(wanted[variant] for variant in skipped)
        raise ConfigError(
            [f"{', '.join(skipped)}: this job has {ranks} ranks; start it with `mpirun -n {least}` or more"]
        )
    if skipped:
        say(f"skipped, as this job has {ranks} rank{'s' if ranks > 1 else ''}: {', '.join(skipped)}")
    return fit


def _left(run: SuiteRun) -> SuiteRun:
    """A run that begins anew, whatever became of it before."""
    return replace(run, outcome="", seconds=math.nan)


def _prepared(runs: list[SuiteRun], out_dir: Path) -> list[SuiteRun]:
    """The folder for what is left, before time is spent. Raises ConfigError."""
    if all(run.done for run in runs):
        return runs
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"--out {out_dir}: {error.strerror}"]) from None
    if not os.access(out_dir, os.W_OK):
        raise ConfigError([f"--out {out_dir}: can't be written to"])
    return runs


def _shared(comm: MPI.Intracomm | None, prepare: Callable[[], list[SuiteRun]]) -> list[SuiteRun]:
    """Collective: rank 0's list on every rank, or its ConfigError."""
    answer: dict[str, Any] = {}
    if comm is None or comm.rank == 0:
        try:
            answer = {"runs": [asdict(run) for run in prepare()]}
        except ConfigError as error:
            answer = {"problems": error.problems}
    if comm is not None:
        answer = json.loads(broadcast_text(comm, json.dumps(answer)))
    if "problems" in answer:
        raise ConfigError(answer["problems"])
    return [SuiteRun(**run) for run in answer["runs"]]


def _everyone_hears(comm: MPI.Intracomm | None, interrupted: Interrupted) -> bool:
    """Collective: rank 0's answer on every rank."""
    return (
        interrupted() if comm is None else bool(json.loads(broadcast_text(comm, json.dumps(interrupted()))))
    )


def _attempt(run: SuiteRun, drive: Drive, comm: MPI.Intracomm | None) -> RunSummary:
    """Collective: the run's summary; of one that raised on every rank, a summary that says why.

    Where only some ranks raise, the others wait for messages that never come: then it is raised, to end the job.
    Raises ConfigError on every rank where rank 0's error is one of the whole job.
    """
    own, ends = (None, None) if comm is None else (comm.Dup(), comm.Dup())
    try:
        summary = drive(run, own)
    except Exception as error:
        if ends is not None and not all_come(ends, AGREE_SECONDS):
            raise
        why = str(error) if isinstance(error, OF_THE_JOB) else ""
        if why := why if ends is None else broadcast_text(ends, why):
            raise ConfigError([f"{why}; the suite ends at {run.name}"]) from error
        # `own` is given up: a message of the failed run may still be under way on it.
        summary = RunSummary(outcome=f"failed: {error or type(error).__name__}")
    else:
        if own is not None:
            own.Free()
    if ends is not None:
        ends.Free()
    return summary
