"""The start of a wall run, by phase: how long it took, and what processor time and files, of every rank.

A sample is a rank. A phase ends on each rank by itself, so its seconds include what the rank waits for others there.
The first phase begins when the operating system says that the process began, in hundredths of a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import psutil
from mpi4py import MPI

from qafel_mpi import startup
from qafel_mpi.bench.measuring.ranks import shared_folder
from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Samples
from qafel_mpi.bench.overlap import Drive
from qafel_mpi.config import Experiment, load
from qafel_mpi.startup import Mark
from qafel_mpi.transport.exchange import gather_text

WHOLE = "all"


def experiment(name: str = "digits") -> Experiment:
    """One upload, one step."""
    return load(name, ["clock.kind=wall", "server.buffer_size=1", "stop.steps=1"])


def rows(comm: MPI.Intracomm, drive: Drive, name: str) -> Iterator[Row]:
    """Collective: a run with one step, and what start-up has passed since this process began; rows on rank 0."""
    startup.passed("")  # what came before is the benchmark's own
    with shared_folder(comm) as folder:
        startup.passed("")
        drive(experiment(name), comm, folder / "run.h5")
    startup.passed("first step and end")
    began_s = psutil.Process().create_time()
    everyone = [json.loads(text) for text in gather_text(comm, json.dumps([began_s, startup.MARKS]))]
    if comm.rank == 0:
        yield from tables([phases(began, [Mark(*mark) for mark in marks]) for began, marks in everyone], name)


def phases(began_s: float, marks: Sequence[Mark]) -> dict[str, Mark]:
    """What each phase took of one rank: seconds, processor seconds and files, in a Mark's fields; and all together.

    began_s: since the epoch.
    """
    found: dict[str, Mark] = {}
    for before, after in pairwise([Mark("", began_s, 0.0, 0), *marks]):
        if after.phase:
            found[after.phase] = Mark(
                after.phase,
                max(0.0, after.at_s - before.at_s),
                after.processor_s - before.processor_s,
                after.opened - before.opened,
            )
    columns = zip(*[mark[1:] for mark in found.values()], strict=True)
    return found | {WHOLE: Mark(WHOLE, *(sum(column) for column in columns))}


def tables(ranks: Sequence[Mapping[str, Mark]], name: str) -> Iterator[Row]:
    """A row a phase that every rank has passed. ranks: what `phases` gives."""
    for phase in ranks[0]:
        if all(phase in rank for rank in ranks):
            yield _row(phase, [rank[phase] for rank in ranks], name)


def _row(phase: str, marks: Sequence[Mark], name: str) -> Row:
    parameters: dict[str, Any] = {"operation": phase, "experiment": name, "ranks": len(marks)}
    return Row(
        "startup",
        parameters,
        Samples(np.array([mark.at_s for mark in marks]), np.empty(0)),
        reduction="a rank's",
        derived={
            "processor_s_a_rank": float(np.mean([mark.processor_s for mark in marks])),
            "processor_s": float(np.sum([mark.processor_s for mark in marks])),
            "files_opened_a_rank": float(np.mean([mark.opened for mark in marks])),
        },
    )
