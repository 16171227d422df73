"""Offsets between the ranks' clocks, by round trips to rank 0 of which the smallest counts.

Cristian's algorithm: of several round trips the fastest bounds the error by half its time, whatever the split
between its two directions. At the beginning and the end of a run every rank waits for its turn (`synchronise`).
In between, rank 0 asks while it serves and the others answer while they train (`poll`): nobody waits, and a rank
that is found busy has a larger bound.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

import numpy as np
from mpi4py import MPI

from qafel_mpi.transport import mortal

TAG = 1
AT_ONCE = 16  # ranks that rank 0 asks at the same time during a run
# A rank that has answered looks so long for the next question: the one that finds it there is the one that counts.
LINGER_SECONDS = 200e-6
THAT_IS_ALL = 1.0

Clock = Callable[[], float]
Wait = Callable[[Callable[[], bool], str], None]  # until the first holds; the second says what for, in words


def at_once(ready: Callable[[], bool], what: str) -> None:
    """Wait for what is not worth a back-off."""
    while not ready():
        os.sched_yield()


@dataclass(frozen=True)
class ClockReading:
    """When the rank's own clock showed local_s, rank 0's showed local_s + offset_s, within the bound."""

    rank: int
    local_s: float
    offset_s: float
    error_bound_s: float  # half the smallest round trip


@dataclass(eq=False)
class _Question:
    """Round trips to one rank."""

    rank: int
    left: int  # round trips still to make
    begun_s: float = 0.0
    best: ClockReading | None = None
    sent: np.ndarray = field(default_factory=lambda: np.zeros(1))
    answer: np.ndarray = field(default_factory=lambda: np.zeros(1))
    requests: list[MPI.Request] = field(default_factory=list)  # the answer, the question

    def ask(self, comm: MPI.Intracomm, clock: Clock) -> None:
        self.left -= 1
        receive = comm.Irecv([self.answer, MPI.DOUBLE], self.rank, TAG)
        self.begun_s = clock()
        self.requests = [receive, comm.Isend([self.sent, MPI.DOUBLE], self.rank, TAG)]

    def answered(self, now_s: float) -> None:
        mortal.finish(self.requests[1])  # its answer is here: it has arrived
        theirs, bound = float(self.answer[0]), (now_s - self.begun_s) / 2
        if self.best is None or bound < self.best.error_bound_s:
            self.best = ClockReading(self.rank, theirs, (self.begun_s + now_s) / 2 - theirs, bound)


class Asking:
    """Rank 0's side. Its clock is the one that counts."""

    def __init__(self, comm: MPI.Intracomm, *, rounds: int, every_s: float, clock: Clock):
        self.comm, self.rounds, self.every_s, self.clock = comm, rounds, every_s, clock
        self._waiting: deque[int] = deque()  # ranks to ask
        self._asked: list[_Question] = []
        self._due_s = clock() + every_s
        self.heard = False  # the last poll found an answer: the next question follows at once
        self._out: set[int] = set()  # ranks that have died
        self._unanswered: list[_Question] = []  # theirs: MPI may hold on to its buffers
        self._mortal = mortal.survives()

    def synchronise(self, wait: Wait = at_once) -> list[ClockReading]:
        """Collective: a reading of every rank. Rank after rank, so that none waits in another's way.

        wait: until a rank is there; from then on every round trip is waited for without a pause.
        (rounds + 1) · (size - 1) round trips in all: for 10,000 ranks and 10 rounds at 5 to 20 µs, 0.5 to 2 s.
        """
        self._waiting.clear()
        for asked in self._asked:  # a question of before, which the rank answers now at the latest
            wait(partial(mortal.all_done, asked.requests), f"rank {asked.rank} to tell its time")
        self._asked.clear()
        readings = [ClockReading(0, self.clock(), 0.0, 0.0)]
        for rank in range(1, self.comm.size):
            if rank not in self._out:
                try:
                    readings.append(self._reading(rank, wait))
                except MPI.Exception as error:
                    mortal.refuse_all_but_death(error)
        self._due_s = self.clock() + self.every_s
        return readings

    def _reading(self, rank: int, wait: Wait) -> ClockReading:
        question = _Question(rank, self.rounds + 1)
        while question.left:
            question.ask(self.comm, self.clock)
            if question.left == self.rounds:
                wait(question.requests[0].Test, f"rank {rank} to tell its time")
            else:
                question.requests[0].Wait()
            question.answered(self.clock())
        assert question.best is not None
        self.comm.Send([np.full(1, THAT_IS_ALL), MPI.DOUBLE], rank, TAG)
        return question.best

    def leave(self, rank: int) -> None:
        """A rank has died: it is not asked any more."""
        with suppress(ValueError):
            self._waiting.remove(rank)
        self._out.add(rank)
        self._unanswered += [question for question in self._asked if question.rank == rank]
        self._asked = [question for question in self._asked if question.rank != rank]

    def poll(self) -> list[ClockReading]:
        """Ask and take answers, when it is time; the readings that are complete. Never waits.

        Every `every_s` each rank but those that have not answered the round before, some 10 µs of rank 0's time a
        round trip.
        """
        now_s, self.heard = self.clock(), False
        if now_s >= self._due_s:
            self._due_s = now_s + self.every_s
            busy = {question.rank for question in self._asked}.union(self._waiting, self._out)
            self._waiting.extend(rank for rank in range(1, self.comm.size) if rank not in busy)
        elif not self._asked:
            return []
        readings = self._answers()
        while self._waiting and len(self._asked) < AT_ONCE:
            question = _Question(self._waiting.popleft(), self.rounds)
            question.ask(self.comm, self.clock)
            self._asked.append(question)
        return readings

    def _answers(self) -> list[ClockReading]:
        asked = [question.requests[0] for question in self._asked]
        indices = mortal.some_done(asked) if self._mortal else MPI.Request.Testsome(asked)
        now_s, self.heard = self.clock(), bool(indices)
        readings = []
        for question in [self._asked[i] for i in indices or ()]:
            question.answered(now_s)
            if question.left:
                question.ask(self.comm, self.clock)
                continue
            self._asked.remove(question)
            assert question.best is not None
            readings.append(question.best)
        return readings

    def close(self) -> None:
        """Nothing is kept posted after `synchronise`."""


class Answering:
    """Every other rank's side."""

    def __init__(self, comm: MPI.Intracomm, *, clock: Clock):
        self.clock = clock
        self.heard = False  # the last poll found a question
        self._question, self._answer = np.zeros(1), np.zeros(1)
        self._receive = comm.Recv_init([self._question, MPI.DOUBLE], 0, TAG)
        self._send = comm.Send_init([self._answer, MPI.DOUBLE], 0, TAG)
        self._receive.Start()
        # Rank 0 has said so: perhaps to a `poll`, where this rank comes late to `synchronise`.
        self._over = False

    def synchronise(self, wait: Wait = at_once) -> list[ClockReading]:
        """Collective: answer until rank 0 says that that is all. wait: for its turn to come."""
        while not self._over:
            wait(self._receive.Test, "rank 0 to ask for its time")
            self._answer_what_follows()
        self._over = False
        return []

    def poll(self) -> list[ClockReading]:
        """Answer what has come, and what follows within LINGER_SECONDS."""
        self.heard = self._receive.Test()
        if self.heard:
            self._answer_what_follows()
        return []

    def _answer_what_follows(self) -> None:
        """A question has come."""
        self._take()
        until_s = self.clock() + LINGER_SECONDS
        while self.clock() < until_s and not self._over:
            if self._receive.Test():
                self._take()
                until_s = self.clock() + LINGER_SECONDS

    def _take(self) -> None:
        if self._question[0] == THAT_IS_ALL:
            self._over = True
        else:
            self._send.Wait()  # the answer before: rank 0 has had it, or it would not ask again
            self._answer[0] = self.clock()
            self._send.Start()
        self._receive.Start()

    def leave(self, rank: int) -> None:
        """Nobody is asked here."""

    def close(self) -> None:
        """Collective with rank 0's, behind `synchronise`: then no question is under way."""
        self._send.Wait()
        self._receive.Cancel()
        self._receive.Wait()
        self._receive.Free()
        self._send.Free()


def clocks(
    comm: MPI.Intracomm, *, rounds: int, every_s: float = float("inf"), clock: Clock = perf_counter
) -> Asking | Answering:
    """This rank's side. rounds: round trips for a reading; every_s: between two readings during a run."""
    if comm.rank == 0:
        return Asking(comm, rounds=rounds, every_s=every_s, clock=clock)
    return Answering(comm, clock=clock)


def synchronise(comm: MPI.Intracomm, *, rounds: int, clock: Clock = perf_counter) -> list[ClockReading]:
    """Collective. Once, and no more: the readings on rank 0, [] elsewhere."""
    side = clocks(comm, rounds=rounds, clock=clock)
    readings = side.synchronise()
    side.close()
    return readings
