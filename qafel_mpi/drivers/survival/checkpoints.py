"""Checkpoints on rank 0: when one is due, how it is written beside the run, and which is the newest that is whole.

They lie in the run's folder of shards, checkpoint.NNNNNN.qck, the last two. What is in one: container.py says how it
is written; the session's part comes from survival/resume.py, and the run's from the driver.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Thread
from time import perf_counter

import numpy as np

from qafel_mpi.drivers.survival.container import CheckpointError, copied, read, write
from qafel_mpi.drivers.survival.every import Every
from qafel_mpi.kernels.state import State

KEPT = 2
INTERRUPTED = "interrupted"  # the outcome of a run that a signal ended
LEAST_SECONDS = 60.0  # by default between two
SHARE = 0.01  # of a run's time that they may take by default
_NAME = re.compile(r"checkpoint\.(\d{6,12})\.qck")


@dataclass
class Cost:
    """What the checkpoints of a run took."""

    written: int = 0
    bytes: int = 0  # of the last
    held_s: float = 0.0  # the run stood still: to wait for what was under way, and to copy its state
    write_s: float = 0.0  # on a thread beside it
    failed: int = 0


class Checkpoints:
    """Rank 0's. The state is copied while the run stands still, and written on a thread: one copy of it in memory."""

    def __init__(self, directory: Path, every: Every):
        self.directory, self.every = directory, every
        self.cost = Cost()
        self._number = max((number for number, _ in numbered(directory)), default=0)
        for torn in directory.glob("checkpoint.*.part"):  # of a run that was killed meanwhile
            torn.unlink(missing_ok=True)
        self._version = 0  # of the last one that was to be written
        self._newest = 0  # of the last one that is on the disk
        self._due_s = perf_counter() + self._interval(0.0)
        self._thread: Thread | None = None

    def begin_at(self, version: int) -> None:
        """The run begins from here: the next one is due as many steps later."""
        self._version = self._newest = version

    def due(self, version: int) -> bool:
        """Whether it is time, at a server step; never while one is being written."""
        if self.every.never or (self._thread is not None and self._thread.is_alive()):
            return False
        if self.every.steps is not None:
            return version >= self._version + self.every.steps
        return perf_counter() >= self._due_s

    def keep(self, version: int, take: Callable[[], State], waited_s: float = 0.0) -> None:
        """Write what take() gives: it is copied before this returns. A disk that refuses it does not end the run.

        Nothing where there are to be none. waited_s: the run has stood still for so long already.
        """
        if self.every.never:
            return
        self.wait()
        begun_s = perf_counter()
        state = copied(take())  # it may raise Stopped
        held_s = waited_s + perf_counter() - begun_s
        self.cost.held_s += held_s
        self._version = version
        self._number += 1
        path = self.directory / f"checkpoint.{self._number:06d}.qck"
        self._thread = Thread(target=self._write, args=(path, state, version, held_s), name="checkpoint")
        self._thread.start()

    def wait(self) -> bool:
        """Until what is being written is on the disk; whether the last one is."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return self.cost.written > 0 and not self._refused

    def over(self, out: Path, outcome: str) -> bool:
        """The run ends here. Whether it can go on from a checkpoint; says how."""
        self.wait()
        if outcome != INTERRUPTED or next(numbered(self.directory), None) is None:
            return False
        said = f"`qafel-mpi run --resume {out}` goes on from the checkpoint of version {self._newest}"
        print(f"qafel-mpi: {said}", file=sys.stderr, flush=True)
        return True

    def attributes(self) -> State:
        """For the trace; empty where there were none."""
        return {"checkpoints": asdict(self.cost)} if self.cost.written or self.cost.failed else {}

    stopped = False  # the run was interrupted in the middle of an event
    _refused = False  # the last one, by the disk

    def _write(self, path: Path, state: State, version: int, held_s: float) -> None:
        begun_s = perf_counter()
        try:
            self.cost.bytes = write(path, state)
        except OSError as error:
            self.cost.failed += 1
            self._refused = True
            print(
                f"qafel-mpi: {path}: {error.strerror}; the run goes on without this checkpoint",
                file=sys.stderr,
                flush=True,
            )
        else:
            self.cost.written += 1
            self._refused, self._newest = False, version
            for _, old in list(numbered(self.directory))[KEPT:]:
                with suppress(OSError):
                    old.unlink()
        took_s = perf_counter() - begun_s
        self.cost.write_s += took_s
        self._due_s = perf_counter() + self._interval(held_s + took_s)

    def _interval(self, took_s: float) -> float:
        return self.every.seconds or max(LEAST_SECONDS, took_s / SHARE)


def numbered(directory: Path) -> Iterator[tuple[int, Path]]:
    """The checkpoints of a run, the newest first."""
    names = (
        (match, path) for path in directory.glob("checkpoint.*") if (match := _NAME.fullmatch(path.name))
    )
    return iter(sorted(((int(match[1]), path) for match, path in names), reverse=True))


def newest(directory: Path, say: Callable[[str], None] = lambda line: None) -> tuple[Path, State]:
    """The newest checkpoint that is whole. say: is told of one that is not. Raises CheckpointError."""
    problems: list[str] = []
    for _, path in numbered(directory):
        try:
            state = read(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            say(f"{problem}; {path.name}, the one before it, is used")
        return path, state
    if problems:
        raise CheckpointError("; ".join([*problems, "there is no other: run the experiment again"]))
    raise CheckpointError(f"{directory}: it has no checkpoint")


@dataclass
class Recovery:
    """What a session knows of checkpoints: rank 0 all of it, the other ranks whether the run goes on from one."""

    every: Every = field(default_factory=Every)  # rank 0 writes one so often
    goes_on: bool = False  # the run is resumed
    answers: dict[str, str] = field(default_factory=dict)  # what the ranks have agreed on
    checkpoints: Checkpoints | None = None
    resumed: State | None = None  # the one that the run goes on from
    offsets: dict[int, float] = field(default_factory=dict)  # rank 0's clock minus each rank's, read last
    shifts: dict[int, float] = field(default_factory=dict)  # from a rank's clock to its clock of before
    needs_shards: bool = False  # the run has ended, and can be resumed
    left_over: dict[int, np.ndarray] = field(
        default_factory=dict
    )  # shards of ranks that take no part any more

    def on_clock_of_before(self, rank: int, local_s: float, offset_s: float) -> tuple[float, float]:
        """A reading of a rank's clock as it would be, had the processes of the run's first start gone on."""
        shift_s = self.shifts.get(rank, 0.0)
        self.offsets[rank] = offset_s + self.shifts.get(0, 0.0) - shift_s
        return local_s + shift_s, self.offsets[rank]

    def end(self, out: Path, outcome: str) -> State:
        """On rank 0, the run ends with this outcome. Returns attributes of its trace."""
        if self.checkpoints is None:
            return {}
        self.needs_shards = self.checkpoints.over(out, outcome)
        return self.checkpoints.attributes()
