"""Which ranks of a communicator have died, as this rank's MPI library knows it."""

from __future__ import annotations

from time import perf_counter

from mpi4py import MPI

LOOK_SECONDS = 1e-3  # between two looks: one takes 0.25 µs, and without a call of MPI nothing is known


class RankDiedError(Exception):
    """A rank has died that the run can't do without; the message names rank and host."""


class Failures:
    """The ranks that have died. Acknowledges each, so that receives from any source go on.

    gone: by rank, when it was noticed, by perf_counter.
    """

    def __init__(self, comm: MPI.Intracomm):
        self._comm = comm
        self._due_s = 0.0
        self._told: set[int] = set()
        self.gone: dict[int, float] = {}

    def look(self) -> None:
        """Never waits. Costs nothing where it is called in every turn of a loop."""
        now_s = perf_counter()
        if now_s < self._due_s:
            return
        self._due_s = now_s + LOOK_SECONDS
        failed = self._comm.Get_failed()
        size = failed.Get_size()
        if size > len(self.gone):
            own = self._comm.Get_group()
            for rank in MPI.Group.Translate_ranks(failed, list(range(size)), own):
                self.gone.setdefault(rank, now_s)
            self._comm.Ack_failed(size)
            own.Free()
        if size:
            failed.Free()

    def fresh(self) -> list[int]:
        """The ranks that have died and were not named here before, in ascending order."""
        found = sorted(self.gone.keys() - self._told)
        self._told.update(found)
        return found


class Nobody(Failures):
    """Of a job that ends when a rank dies: there is nothing to look for."""

    def __init__(self) -> None:
        self.gone = {}

    def look(self) -> None:
        """Nobody has died."""

    def fresh(self) -> list[int]:
        return []
