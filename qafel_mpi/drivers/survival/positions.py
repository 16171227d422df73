"""How far each worker's shards are, at a checkpoint: rank 0 asks, and the workers answer with their rows on disk.

A worker answers when it has had every message that rank 0 had sent it, and its own have been taken: what is recorded
of a message then lies before the position at both its ends, or behind it at both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from mpi4py import MPI

from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace_schema import TABLES
from qafel_mpi.transport import mortal
from qafel_mpi.transport.backoff import some_ranks

TAG_ASK, TAG_ANSWER = 14, 15
NOBODY_ASKS = -1
Wait = Callable[[Callable[[], bool], Callable[[], str]], None]


class Asking:
    """Rank 0's side."""

    def __init__(self, comm: MPI.Intracomm):
        self.comm = comm
        self._requests: dict[int, MPI.Request] = {}
        self._sends: list[MPI.Request] = []
        self._buffers: list[np.ndarray] = []
        self.answers: dict[int, np.ndarray] = {}

    def of(self, sent: Mapping[int, int], wait: Wait) -> dict[int, np.ndarray]:
        """By rank the positions of its shards. sent: by rank, the messages so far; all of them have been taken."""
        self.ask(sent)
        wait(self.answered, lambda: f"{some_ranks(self.silent)} to write their rows, for a checkpoint")
        return self.answers

    def ask(self, sent: Mapping[int, int]) -> None:
        """sent: by rank, the messages so far."""
        self.answers = {rank: np.zeros(len(TABLES), np.int64) for rank in sent}
        for rank, count in sent.items():
            self._requests[rank] = self.comm.Irecv([self.answers[rank], MPI.INT64_T], rank, TAG_ANSWER)
            self._buffers.append(np.array([count], np.int64))
            self._sends.append(self.comm.Isend([self._buffers[-1], MPI.INT64_T], rank, TAG_ASK))

    def answered(self) -> bool:
        """Whether every rank has answered. Never waits."""
        for rank, request in [*self._requests.items()]:
            try:
                if request.Test():
                    del self._requests[rank]
            except MPI.Exception as error:
                mortal.refuse_all_but_death(error)
                del self._requests[rank], self.answers[rank]
        if self._requests:
            return False
        for send in self._sends:
            mortal.finish(send)  # answered: it has arrived
        self._sends.clear()
        self._buffers.clear()
        return True

    @property
    def silent(self) -> list[int]:
        """The ranks that have not answered."""
        return list(self._requests)


class Answering:
    """A worker's side."""

    def __init__(self, comm: MPI.Intracomm):
        self._question, self._answer = np.zeros(1, np.int64), np.zeros(len(TABLES), np.int64)
        self._receive = comm.Recv_init([self._question, MPI.INT64_T], 0, TAG_ASK)
        self._send = comm.Send_init([self._answer, MPI.INT64_T], 0, TAG_ANSWER)
        self._receive.Start()
        self._asked = NOBODY_ASKS  # the messages that rank 0 has sent, where it waits for an answer

    def answer(self, recorder: Recorder, *, idle: bool, received: int) -> bool:
        """Answer where rank 0 has asked, and all is here; whether that is so. Never waits.

        idle: every message of this rank has been taken. received: messages so far.
        """
        if self._asked == NOBODY_ASKS and self._receive.Test():
            self._asked = int(self._question[0])
        if not idle or received != self._asked:
            return False
        self._send.Wait()  # the answer before: rank 0 has had it, or it would not ask again
        self._answer[:] = recorder.positions()
        self._send.Start()
        self._asked = NOBODY_ASKS
        self._receive.Start()
        return True

    def close(self) -> None:
        """At the end of a run: rank 0 asks no more."""
        self._send.Wait()
        self._receive.Cancel()
        self._receive.Wait()
        self._receive.Free()
        self._send.Free()
