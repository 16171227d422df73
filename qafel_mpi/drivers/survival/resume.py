"""What both clocks do so that a run goes on: the session's part of a checkpoint, and the way back from it.

The rows that were recorded behind the checkpoint are cut off, and the run records them again. Times go on as if the
run had only paused: the clock of a new process is shifted to where its rank's clock stood.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from mpi4py import MPI

from qafel_mpi.algorithms.client import Replica
from qafel_mpi.config import Experiment, to_toml
from qafel_mpi.drivers.provenance import source_digest, versions
from qafel_mpi.drivers.survival.checkpoints import Recovery, newest, numbered
from qafel_mpi.drivers.survival.container import CheckpointError, read
from qafel_mpi.drivers.survival.kept import parts
from qafel_mpi.kernels.memory import tensor_of
from qafel_mpi.kernels.state import State
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.trace.claim import hold
from qafel_mpi.trace.clock import Clocks, RankClock
from qafel_mpi.trace.cut import (
    cut_rows,
    cut_to_positions,
    forget_ends,
    offsets_of,
    positions_of,
    rows_in,
    tell_rows_left,
)
from qafel_mpi.trace.merge import read_clock, read_run, shards_of
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace.shards import TraceError, shard_path, shard_ranks
from qafel_mpi.transport.exchange import broadcast_text, gather_text
from qafel_mpi.wire import Kind

PART_BYTES = 1 << 30  # of a vector in one broadcast: MPI libraries differ above 2^31
# What a state that is another's raises.
MISFITS = (KeyError, TypeError, ValueError, IndexError, OverflowError)


class Session(Protocol):
    """What is needed here of drivers/session.py's."""

    comm: MPI.Intracomm
    recorder: Recorder
    attributes: dict[str, Any]
    origin_s: float
    syncs: dict[int, int]
    dropped: int
    recovery: Recovery

    @property
    def experiment(self) -> Experiment: ...

    def now_s(self) -> float: ...

    def wait(self, ready: Callable[[], bool], what: Callable[[], str]) -> None: ...

    def by_one(self, what: str) -> str: ...


# --- what a checkpoint says -----------------------------------------------------------------------------------------


def whole_state(session: Session, run: State, positions: dict[int, np.ndarray]) -> State:
    """A checkpoint. run: the driver's part. positions: of the shards of every rank that has told its own."""
    e = session.experiment
    return {
        "about": {
            "package": versions()["qafel-mpi"],
            "source": source_digest(),
            "experiment": to_toml(e),
            "clock": e.clock.kind,
            "ranks": session.comm.size,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "answers": session.recovery.answers,
        },
        "session": {
            "elapsed_s": session.now_s(),
            "origin_s": session.attributes["origin_s"],
            "offsets": _by_number(session.recovery.offsets),
            "syncs": _by_number(session.syncs),
            "dropped": session.dropped,
            "positions": _by_number(
                session.recovery.left_over | positions | {0: session.recorder.positions()}
            ),
        },
        "run": run,
    }


def _by_number(of: dict[int, Any]) -> State:
    """Numbers as JSON's names, or two arrays where the values are numbers."""
    return {
        "keys": np.array(list(of), dtype=np.int64),
        "values": np.array(list(of.values())),
    }


def _numbered(state: State) -> dict[int, Any]:
    return dict(zip(state["keys"].tolist(), state["values"], strict=True))


# --- before the ranks begin: rank 0 alone ---------------------------------------------------------------------------


def look(out: Path) -> tuple[Path, State]:
    """The checkpoint that a trace's run goes on from. Raises CheckpointError, with what to do, where it can't.

    It takes the name of the trace: nobody else resumes the run meanwhile.
    """
    shards = shards_of(out)
    if not shards.is_dir():
        if out.exists():
            raise CheckpointError(
                f"{out}: the run is over: it left no checkpoint, and there is nothing to resume"
            )
        raise CheckpointError(f"{out}: no such run: neither it nor {shards} exists")
    if next(numbered(shards), None) is None:
        merge = f"`qafel-mpi merge {shards}` recovers what was recorded"
        raise CheckpointError(f"{shards}: the run left no checkpoint, so it can't be resumed; {merge}")
    try:
        hold(shards)
    except TraceError as error:
        raise CheckpointError(f"{error}; wait for it, or end it") from None
    except OSError as error:
        raise CheckpointError(f"{shards}: can't be written to ({error.strerror})") from None
    path, state = newest(shards, say=_say)
    refuse_other_package(path, state)
    return path, state


def refuse_other_package(path: Path, state: State) -> None:
    """Raises CheckpointError where another version wrote it; says so where it is this version with other sources."""
    try:
        theirs, source = str(state["about"]["package"]), state["about"]["source"]
        for part in ("experiment", "clock", "ranks"):
            state["about"][part]
    except MISFITS as error:
        raise CheckpointError(f"{path}: not a checkpoint of a run ({error})") from None
    if theirs != (ours := versions()["qafel-mpi"]):
        raise CheckpointError(
            f"{path}: written by qafel-mpi {theirs or 'unknown'}, and this is {ours or 'unknown'}: resume it with "
            "the version that wrote it"
        )
    if source != source_digest():
        _say(f"{path}: the program's sources have changed since: the run may not go on as it would have")


def take_up(session: Session, path: Path) -> str:
    """On rank 0: read the checkpoint, and cut the shards back to it; why this can't be done, or an empty string."""
    shards = session.recorder.directory
    try:
        hold(shards)
        state = session.recovery.resumed = read(path)
        own = state["session"]
        for _, newer in numbered(shards):  # damaged, and said so
            if newer.name > path.name:
                newer.unlink(missing_ok=True)
        session.attributes |= _history(read_run(shards), session.comm.size)
        session.recovery.offsets = {
            **offsets_of(shards),
            **{r: float(v) for r, v in _numbered(own["offsets"]).items()},
        }
        session.syncs = {r: int(v) for r, v in _numbered(own["syncs"]).items()}
        session.dropped = int(own["dropped"])
        positions = _numbered(own["positions"])
        forget_ends(shards)
        if state["about"]["clock"] == "wall":
            cut_clients(shards, own, state["run"])
            positions = positions_of(shards, 1) | {0: positions[0]}
        if short := cut_to_positions(shards, positions):
            _say(
                f"{shards}: {short:,} bytes of rows before the checkpoint never came to the disk, and are lost"
            )
        tell_rows_left(shards)
        session.recovery.left_over = positions_of(shards, session.comm.size)
        # Behind these rows of /updates the clients begin anew: a replay has to know.
        session.attributes["resumed"][-1]["updates"] = rows_in(shard_path(shards, "updates", 0))
    except (CheckpointError, TraceError) as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or shards}: {error.strerror}"
    except MISFITS as error:
        return f"{path}: it does not fit this run ({type(error).__name__}: {error})"
    return ""


def _history(before: dict[str, Any], ranks: int) -> dict[str, Any]:
    """Attributes of a run that is resumed: of its first start, and a note of this one."""
    again = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "ranks": ranks,
        "arithmetic": before.get("arithmetic", []),
        "package": before.get("fingerprints", {}).get("package", ""),
    }
    first = {name: before[name] for name in ("started", "command_line") if name in before}
    return first | {"resumed": [*before.get("resumed", []), again]}


def cut_clients(shards: Path, session: State, run: State) -> None:
    """Cut what client ranks recorded behind the checkpoint, by rank 0's clock: nobody had asked how far they were.

    An update that rank 0 had not taken goes too: it is made again. Raises TraceError.
    """
    clocks = Clocks(read_clock(shards), float(session["origin_s"]))
    elapsed_s, played = float(session["elapsed_s"]), run["participations"]

    def taken(rows: np.ndarray, name: str) -> np.ndarray:
        found: np.ndarray = rows[name] < played[np.clip(rows["client"], 0, len(played) - 1)]
        return found

    def messages(rows: np.ndarray, clock: RankClock) -> np.ndarray:
        update = (rows["end"] == 0) & (rows["kind"] == Kind.UPDATE)
        return np.where(update, taken(rows, "sequence"), clock.corrected(rows["t_complete"]) <= elapsed_s)

    def faults(rows: np.ndarray, clock: RankClock) -> np.ndarray:
        return clock.corrected(rows["time_s"]) <= elapsed_s

    for table, rule in (("messages", messages), ("faults", faults)):
        for rank in (rank for rank in shard_ranks(shards, table) if rank):
            cut_rows(shard_path(shards, table, rank), partial(rule, clock=clocks.of(rank)))
    for rank in (rank for rank in shard_ranks(shards, "encodings") if rank):
        cut_rows(shard_path(shards, "encodings", rank), lambda rows: taken(rows, "participation"))


# --- on all ranks ---------------------------------------------------------------------------------------------------


def prepare(session: Session, answers: dict[str, str]) -> None:
    """Collective, once the ranks have agreed on these answers. Raises DataError where a resumed run gives others."""
    session.recovery.answers = answers
    if not session.recovery.goes_on:
        return
    refused = _differs(session, answers) if session.comm.rank == 0 else ""
    if refused := broadcast_text(session.comm, refused):
        raise DataError(refused)
    _go_on(session)


def _differs(session: Session, answers: dict[str, str]) -> str:
    """On rank 0: what is not as it was when the checkpoint was written, or an empty string."""
    assert session.recovery.resumed is not None
    before = session.recovery.resumed["about"].get("answers", {})
    changed = [name for name, answer in answers.items() if before.get(name) != answer]
    return f"the run can't be resumed: {', '.join(changed)} changed since its checkpoint" if changed else ""


def _go_on(session: Session) -> None:
    """Collective: every rank's clock and shards go on from where they were at the checkpoint."""
    said = ""
    if session.comm.rank == 0:
        assert session.recovery.resumed is not None
        own = session.recovery.resumed["session"]
        offsets = {str(rank): offset for rank, offset in session.recovery.offsets.items()}
        said = json.dumps([float(own["elapsed_s"]), float(own["origin_s"]), offsets])
    elapsed_s, origin_s, offsets = json.loads(broadcast_text(session.comm, said))
    now_s = perf_counter()
    shift_s = origin_s + elapsed_s - offsets.get(str(session.comm.rank), 0.0) - now_s
    session.origin_s = now_s - elapsed_s
    if session.comm.rank == 0:
        session.attributes["origin_s"] = origin_s
    session.recorder.go_on(shift_s)
    session.recovery.shifts = dict(enumerate(map(float, gather_text(session.comm, repr(shift_s)))))


def share(session: Session, replica: Replica | None, x_hat: np.ndarray | None = None) -> None:
    """Collective: rank 0's x̂ and its version in every rank's replica.

    replica: None on rank 0, which gives x_hat, (d,), and has the version from its checkpoint.
    """
    if session.comm.rank == 0:
        assert session.recovery.resumed is not None
        assert x_hat is not None
        version, vector = int(session.recovery.resumed["run"]["server"]["replica"]["version"]), x_hat
    else:
        assert replica is not None
        version, vector = 0, np.empty(replica.x_hat.numel(), dtype=replica.x_hat.cpu().numpy().dtype)
    version = int(broadcast_text(session.comm, str(version)))
    spread(session, vector)
    if replica is not None:
        replica.x_hat.copy_(tensor_of(vector))
        replica.version = version


def spread(session: Session, array: np.ndarray) -> None:
    """Collective: rank 0's array, contiguous, in every rank's of that size and type."""
    data = array.view(np.uint8)
    for begin in range(0, data.size, PART_BYTES):
        part = session.comm.Ibcast([data[begin : begin + PART_BYTES], MPI.BYTE], 0)
        session.wait(part.Test, lambda: session.by_one("rank 0 to send the state of the checkpoint"))


def spread_kept(
    session: Session, rows: np.ndarray | None = None, take: Callable[[np.ndarray], None] | None = None
) -> None:
    """Collective: what clients keep, (n, w), of rank 0's checkpoint, part by part. rows: rank 0's. take: others'."""
    shape = "" if rows is None else json.dumps(rows.shape)
    count, width = json.loads(broadcast_text(session.comm, shape))
    for part in parts(count, width):
        some = np.empty((part.stop - part.start, width), np.uint8) if rows is None else rows[part]
        spread(session, some.reshape(-1))
        if take is not None:
            take(some)


def misfit(error: Exception) -> CheckpointError:
    """What MISFITS mean of a checkpoint whose checksums are right."""
    return CheckpointError(f"the checkpoint does not fit this run ({type(error).__name__}: {error})")


def _say(line: str) -> None:
    print(f"qafel-mpi: {line}", file=sys.stderr, flush=True)
