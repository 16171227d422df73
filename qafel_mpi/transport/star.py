"""What all ranks do together at the end of a run, by messages through rank 0: a rank that has died is left out.

A collective of MPI waits for a dead rank for ever, or fails on some ranks and not on others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from mpi4py import MPI

from qafel_mpi.transport import mortal
from qafel_mpi.transport.backoff import some_ranks
from qafel_mpi.transport.exchange import broadcast_text, gather_text
from qafel_mpi.transport.failures import Failures, RankDiedError

TAG_IN, TAG_OUT = 21, 22
Wait = Callable[[Callable[[], bool], str], None]  # until the first holds; the second says what for, in words


class Together:
    """The same by MPI's collectives, where a death ends the job."""

    def __init__(self, comm: MPI.Intracomm, wait: Wait):
        self._comm, self._wait = comm, wait

    def meet(self, what: str) -> None:
        """Collective: wait for every rank. what: that is waited for, in words."""
        self._wait(self._comm.Ibarrier().Test, what)

    def gather(self, text: str) -> dict[int, str]:
        """Collective: every rank's text, on rank 0; {} elsewhere."""
        return dict(enumerate(gather_text(self._comm, text)))

    def broadcast(self, text: str) -> str:
        """Collective: rank 0's text on every rank."""
        return broadcast_text(self._comm, text)


class Star:
    """Collective over the ranks that live: rank 0 sends to each, and receives from each.

    Raises RankDiedError where rank 0 has died.
    """

    def __init__(self, comm: MPI.Intracomm, wait: Wait, failures: Failures):
        self._comm, self._wait, self._failures = comm, wait, failures

    def meet(self, what: str) -> None:
        self._gathered("", what)
        self._spread("", what)

    def gather(self, text: str) -> dict[int, str]:
        return self._gathered(text, "the other ranks' results")

    def broadcast(self, text: str) -> str:
        return self._spread(text, "rank 0's result")

    def _gathered(self, text: str, what: str) -> dict[int, str]:
        if self._comm.rank:
            self._wait(self._sent(text, [0], TAG_IN), what)
            return {}
        found, missing = {0: text}, set(range(1, self._comm.size))

        def all_there() -> bool:
            missing.difference_update(self._failures.gone)
            for rank in sorted(missing):
                if (theirs := self._received(rank, TAG_IN)) is not None:
                    found[rank] = theirs
                    missing.discard(rank)
            return not missing

        self._wait(all_there, f"{what} ({some_ranks(missing)})" if missing else what)
        return found

    def _spread(self, text: str, what: str) -> str:
        if self._comm.rank == 0:
            living = [rank for rank in range(1, self._comm.size) if rank not in self._failures.gone]
            self._wait(self._sent(text, living, TAG_OUT), what)
            return text
        got: list[str] = []

        def there() -> bool:
            if (theirs := self._received(0, TAG_OUT)) is not None:
                got.append(theirs)
            return bool(got)

        self._wait(there, what)
        return got[0]

    def _sent(self, text: str, ranks: list[int], tag: int) -> Callable[[], bool]:
        """Send; whether all have it, or have died."""
        data = np.frombuffer(text.encode(), np.uint8).copy()
        requests = []
        for rank in ranks:
            try:
                requests.append(self._comm.Issend([data, MPI.BYTE], rank, tag))
            except MPI.Exception as error:
                self._refuse(rank, error)
        if ranks == [0]:
            return partial(self._tested, requests[0])
        return lambda: mortal.all_done(requests)

    def _tested(self, request: MPI.Request) -> bool:
        try:
            return request.Test()
        except MPI.Exception as error:
            self._refuse(0, error)
            raise

    def _received(self, rank: int, tag: int) -> str | None:
        """What a rank has sent, if it is there."""
        status = MPI.Status()
        try:
            if not self._comm.Iprobe(rank, tag, status):
                return None
            data = np.empty(status.Get_count(MPI.BYTE), np.uint8)
            self._comm.Recv([data, MPI.BYTE], rank, tag)
        except MPI.Exception as error:
            self._refuse(rank, error)
            return None
        return data.tobytes().decode()

    def _refuse(self, rank: int, error: MPI.Exception) -> None:
        """Raise what the end of the run can't do without."""
        if not mortal.is_death(error):
            raise error
        if rank == 0:
            raise RankDiedError("rank 0 has died")
