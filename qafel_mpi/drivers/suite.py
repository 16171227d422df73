"""A suite carried out: all variants and seeds of an experiment, one trace a run, resumed where it stopped.

Rank 0 alone looks at the traces, and takes the name of each before its run begins: several suites may share a folder.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qafel_mpi.config import ConfigError, from_toml, load
from qafel_mpi.drivers.build import Interrupted, RunSummary
from qafel_mpi.drivers.suite_plan import DAMAGED, UNDER_WAY, Resolve, SuiteRun, plan, standing, with_trace
from qafel_mpi.drivers.survival.checkpoints import newest, numbered
from qafel_mpi.drivers.survival.container import CheckpointError
from qafel_mpi.drivers.survival.resume import refuse_other_package
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.trace.claim import NameTakenError, hold, release, take
from qafel_mpi.trace.merge import shards_of
from qafel_mpi.trace.shards import TraceError
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
INTERRUPTED = {"interrupted": True}

Drive = Callable[[SuiteRun, "MPI.Intracomm | None"], RunSummary]  # collective: one run, and its trace


@dataclass
class SuiteResult:
    """Where a suite stands when run_suite ends; the same on every rank."""

    runs: list[SuiteRun]
    interrupted: bool = False
    failed: list[SuiteRun] = field(default_factory=list)  # in this call


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
    say: is told on every rank how far the suite is. A run whose name another process has is left to that one. What
    needs more ranks than there are is said to be skipped, and is not in the result. Raises ConfigError on every rank
    alike, also where a run fails for what is wrong with the job's hosts or data: that ends the suite.
    """
    runs = _shared(
        comm, lambda: _prepared(plan(name, seeds, out_dir, overrides, only, resolve, pick), out_dir)
    )
    runs = _that_fit(runs, 1 if comm is None else comm.size, say)
    result = SuiteResult([run if run.done else _left(run) for run in runs])
    say(f"{name}: {standing(result.runs)}")
    for index in 2 * list(range(len(runs))):  # a second look at what is left to other processes
        run = result.runs[index]
        if run.done or run.failed:
            continue
        turn = _from_rank_0(comm, partial(_turn, run, name, interrupted))
        if turn == INTERRUPTED:
            result.interrupted = True
            break
        checkpoint = turn.pop("checkpoint", "")
        if turn:
            result.runs[index] = passed = replace(run, **turn)
            result.failed += [passed] if passed.failed else []
            say(f"{passed.name}: {passed.outcome}")
            continue
        begun_s = time.monotonic()
        summary = _attempt(replace(run, checkpoint=checkpoint), drive, comm)
        release(shards_of(Path(run.out)))
        if summary.interrupted:
            result.interrupted = True
            break
        ended = replace(run, outcome=summary.outcome, seconds=time.monotonic() - begun_s)
        result.runs[index] = ended
        if ended.failed:
            result.failed.append(ended)
        say(f"{ended.name}: {ended.outcome}, {summary.uploads:,} uploads; {standing(result.runs)}")
        if summary.lost_ranks:  # collectives of this job would wait for them
            say(f"{summary.lost_ranks} ranks have died: the suite ends here")
            result.interrupted = True
            break
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
        say(f"skipped because this job has {ranks} rank{'s' if ranks > 1 else ''}: {', '.join(skipped)}")
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


def _from_rank_0(comm: MPI.Intracomm | None, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Collective: rank 0's answer on every rank."""
    answer = ask() if comm is None or comm.rank == 0 else {}
    return answer if comm is None else dict(json.loads(broadcast_text(comm, json.dumps(answer))))


def _turn(run: SuiteRun, name: str, interrupted: Interrupted) -> dict[str, Any]:
    """On rank 0, whether the run's turn has come: then its name is taken. Else INTERRUPTED, or how the run stands.

    Where its turn has come, the answer has nothing but the checkpoint that it goes on from, if there is one.
    Another suite in the same folder may have begun or completed it since the plan was made.
    """
    if interrupted():
        return INTERRUPTED
    shards = shards_of(Path(run.out))
    try:
        hold(shards)
        now = with_trace(run, name)  # before anything is removed: it may be another experiment's
        checkpoint = "" if now.done else _checkpoint(shards, run)
        if not (now.done or checkpoint):
            take(shards, replace=True)
    except NameTakenError as error:
        return {"outcome": f"{UNDER_WAY}: {error.by}"}
    except (ConfigError, TraceError, OSError) as error:
        release(shards)
        return {"outcome": f"failed: {error}"}
    if now.done:
        release(shards)
        return {"outcome": now.outcome, "seconds": now.seconds}
    if now.outcome == DAMAGED:
        _put_aside(Path(run.out))
    return {"checkpoint": checkpoint} if checkpoint else {}


def _checkpoint(shards: Path, run: SuiteRun) -> str:
    """The checkpoint that an attempt before this one left, if the run can go on from it."""
    if next(numbered(shards), None) is None:
        return ""
    why = "it is of another experiment"  # than run.json says
    try:
        path, state = newest(shards)
        refuse_other_package(path, state)
        if state["about"]["experiment"] == run.experiment:
            return str(path)
    except CheckpointError as error:
        why = str(error)
    print(f"qafel-mpi: {run.name} begins anew, not from its checkpoint: {why}", file=sys.stderr, flush=True)
    return ""


def _put_aside(trace: Path) -> None:
    """Keep a damaged trace under another name: the run that is made again doesn't replace it."""
    aside = trace.with_name(f"{trace.name}.damaged")
    number = 1
    while aside.exists():
        number += 1
        aside = trace.with_name(f"{trace.name}.damaged-{number}")
    trace.rename(aside)
    print(f"qafel-mpi: {trace} is damaged: kept as {aside.name}, and the run is made again", file=sys.stderr)


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
        if summary.lost_ranks:
            return summary
        if own is not None:
            own.Free()
    if ends is not None:
        ends.Free()
    return summary
