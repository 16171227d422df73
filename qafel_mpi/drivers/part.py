"""A run on the first ranks of a job, while the others sleep: one mpirun then serves every size of a scaling study."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import numpy as np
from mpi4py import MPI

from qafel_mpi.config import ConfigError
from qafel_mpi.drivers.build import RunSummary
from qafel_mpi.transport.backoff import sleep_until

NAP_SECONDS = 0.02  # between two looks of a rank that takes no part: it must not cost a core
AGREE_SECONDS = 10.0  # a rank whose run failed waits so long for the others to hear of it


def run_on_first(comm: MPI.Intracomm, ranks: int, work: Callable[[MPI.Intracomm], RunSummary]) -> RunSummary:
    """Collective: work(the first `ranks` ranks of comm) on these; its summary on every rank.

    Raises ConfigError where there are not so many; what work raises on all of its ranks is raised on every rank.
    """
    refuse_too_many(ranks, comm.size)
    if ranks == comm.size:
        return work(comm)
    inside = comm.rank < ranks
    part = cast("MPI.Intracomm", comm.Split(0 if inside else MPI.UNDEFINED, comm.rank))
    summary, failure = RunSummary(), None
    if inside:
        try:
            summary = work(part)
        except Exception as error:  # raised below, when the sleeping ranks know
            failure = error
        else:
            part.Free()
    failed = _any(comm, failure is not None)
    if failure is not None:
        raise failure
    if failed:
        raise RuntimeError("the run failed on the ranks that took part")
    return summary.shared(comm)


def refuse_too_many(ranks: int, size: int) -> None:
    """Raise ConfigError where the job has fewer ranks than are to take part."""
    if ranks > size:
        raise ConfigError(
            [
                f"transport.ranks = {ranks}: this job has {size} ranks; start it with `mpirun -n {ranks}` or more"
            ]
        )


def _any(comm: MPI.Intracomm, mine: bool) -> bool:
    """Collective: whether it holds on any rank; a rank on which it does waits for the others for a limited time."""
    sent, found = np.array([int(mine)], np.int32), np.zeros(1, np.int32)
    request = comm.Iallreduce(sent, found, MPI.MAX)
    begun_s = time.monotonic()

    def over() -> bool:
        # Others of the part may still wait for messages of a rank that failed: the job has to end.
        return request.Test() or (mine and time.monotonic() - begun_s > AGREE_SECONDS)

    sleep_until(over, NAP_SECONDS)
    return mine or bool(found[0])
