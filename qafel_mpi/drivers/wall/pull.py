"""A client rank of a server that asks, on the wall clock: it trains its clients' models, and answers in between."""

from __future__ import annotations

from collections import deque
from time import perf_counter

import numpy as np

from qafel_mpi.algorithms.quafl import Question
from qafel_mpi.codecs.base import NonFiniteError
from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.failures import reason
from qafel_mpi.drivers.pulled import Progressing
from qafel_mpi.drivers.session import Session
from qafel_mpi.drivers.survival.kept import Kept
from qafel_mpi.drivers.survival.stopping import Stopped
from qafel_mpi.drivers.wall.client import WallClient
from qafel_mpi.drivers.wall.members import pairs_of
from qafel_mpi.schedule.hosting import Hosting
from qafel_mpi.wire import Kind, Message


class PullClient(WallClient):
    """It plays one client after the other, P steps each, and then waits; a client that is asked begins anew.

    A question is a DOWNLOAD with the server's model, and the client's next UPDATE the answer: with what it has then.
    """

    def __init__(self, session: Session, setup: Setup, hosting: Hosting):
        super().__init__(session, setup, hosting)
        self.progress = Progressing(setup)
        self.clients = deque(hosting.of(session.comm.rank - 1).tolist())  # the first one is being played
        self.questions: deque[tuple[int, int, Question]] = deque()
        self.participations = dict.fromkeys(self.clients, 0)  # how often each was asked

    def take_up(self) -> None:
        super().take_up()
        self.participations = self.turns.played

    def kept(self) -> Kept:
        return self.progress.state()

    def restore(self, kept: Kept) -> None:
        self.progress.restore(kept)

    def _participate(self) -> None:
        """One SGD step, and the answers to what rank 0 has asked meanwhile."""
        self._until(lambda: True, "nobody")  # it holds for a checkpoint
        while self.moved:
            for moved, played in pairs_of(self.moved.popleft()):
                self.clients.append(moved)
                self.participations[moved] = played
        client = self._next_client()
        if client is None:
            self._until(lambda: bool(self.questions), "the server's next question")
        else:
            try:
                self.progress.step(client, self.participations[client], self._poll)
            except Stopped:
                return
            except Exception as error:
                if error is self.poll_error:
                    raise
                self._report_failure(
                    client,
                    self.participations[client],
                    self.replica.version,
                    reason(error, f"client {client}: "),
                )
                return
        while self.questions and not self.stopped and not self.failed:
            self._answer(*self.questions.popleft())

    def _next_client(self) -> int | None:
        """The one that is played, or the next with steps to do; None where all have done P."""
        for _ in range(len(self.clients)):
            if not self.progress.done(self.clients[0]):
                return self.clients[0]
            self.clients.rotate(-1)
        return None

    def _answer(self, client: int, participation: int, question: Question) -> None:
        frame = self._free_frame()
        if frame is None:
            return
        frame.t_encode_begin = perf_counter()
        try:
            given = self.progress.answer(client, participation, question, frame.payload)
        except NonFiniteError as error:
            self.pool.release(frame)
            self._report_failure(client, participation, question.version, f"client {client}: {error}")
            return
        frame.t_encode_end = perf_counter()
        if given.wrapped:
            self.session.fault("wrapped around", self.comm.rank, client=client, detail=given.said)
        self.participations[client] = participation + 1
        self.uploads += 1
        frame.seal(
            Kind.UPDATE,
            payload_bytes=given.payload_bytes,
            expected=self.described[Kind.UPDATE],
            client=client,
            version=question.version,
            sequence=participation,
            seed=given.key,
            loss=given.loss,
            train_seconds=given.train_seconds,
        )
        self.sends.post(frame, 0)

    def _downloaded(self, message: Message, payload: np.ndarray) -> None:
        question = Question(payload.copy(), message.seed, message.version)
        self.questions.append((message.client, message.sequence, question))
        self.replica.version = message.version
