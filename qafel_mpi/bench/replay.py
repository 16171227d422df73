"""Replays against the virtual clock: updates a second of one experiment, run and done again in turns.

A sample is a whole run, or the whole replay of its trace, timed from its first upload to its last, in seconds
per upload. Reading the trace and the data, loading kernels and merging are outside; packing and server are inside, of
a run also schedule and trace, of a replay the digests.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Case, Limits, interleave
from qafel_mpi.bench.virtual import Drive, cnn_experiment, logistic_experiment, run_seconds
from qafel_mpi.config import Experiment, load

REFERENCE = "the virtual clock on the same experiment"


class Found(Protocol):
    """What is needed of a verdict."""

    @property
    def seconds(self) -> float: ...
    @property
    def uploads(self) -> int: ...
    @property
    def outcome(self) -> str: ...
    @property
    def first_text(self) -> str: ...
    @property
    def slip_text(self) -> str: ...
    @property
    def x_same(self) -> bool | None: ...
    @property
    def x_hat_same(self) -> bool | None: ...


Again = Callable[[Path], Found]  # drivers.replay.run.run


def experiments(cnn_uploads: int, logistic_steps: int) -> Iterator[tuple[str, Experiment, int]]:
    """(name, experiment, uploads)."""
    yield "cnn, batch 32", cnn_experiment(cnn_uploads), cnn_uploads
    yield "logistic regression", logistic_experiment(logistic_steps), 10 * logistic_steps
    digits = ["clock.kind=virtual", "stop.accuracy=1.0", f"stop.uploads={10 * logistic_steps}"]
    yield "digits, 32 together", load("digits", digits), 10 * logistic_steps


def rows(
    drive: Drive, again: Again, limits: Limits, *, cnn_uploads: int, logistic_steps: int
) -> Iterator[Row]:
    """In this process alone. wrong: replays that did not end with the run's x."""
    for name, experiment, uploads in experiments(cnn_uploads, logistic_steps):
        with tempfile.TemporaryDirectory(prefix="qafel-bench-") as folder:
            trace = Path(folder) / "run.h5"
            drive(experiment, None, trace)
            wrong: list[str] = []
            cases: dict[str, Case] = {
                "ours": partial(replay_seconds, again, trace, wrong),
                "reference": partial(run_seconds, drive, experiment, None, uploads),
            }
            samples = interleave(cases, limits, loops=uploads)
        yield Row(
            "virtual",
            {"operation": "replay", "task": name, "ranks": 1},
            samples["ours"],
            samples["reference"],
            REFERENCE,
            wrong=len(wrong),
            reduction="one process",
            derived={"updates_per_s": 1 / samples["ours"].median},
        )


def replay_seconds(again: Again, trace: Path, wrong: list[str]) -> float:
    """Seconds an upload; an outcome other than the same is added to wrong, and said on stderr as is a training that
    gave the recorded bits at the second attempt only."""
    found = again(trace)
    if found.slip_text:
        print(f"bench: replay {trace}: {found.slip_text}", file=sys.stderr)
    if found.outcome != "the same":
        wrong.append(found.outcome)
        ends = f"every payload is the run's; x is: {found.x_same}, x̂ is: {found.x_hat_same}"
        print(f"bench: replay {trace}: {found.outcome}. {found.first_text or ends}", file=sys.stderr)
    return found.seconds / found.uploads
