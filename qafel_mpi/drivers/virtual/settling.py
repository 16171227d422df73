"""Worker ranks at a checkpoint, where what they were given is done and their rows are on disk; and behind it."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.session import Session
from qafel_mpi.drivers.survival.kept import gather, rows_of
from qafel_mpi.drivers.survival.positions import Asking
from qafel_mpi.drivers.survival.resume import spread_kept
from qafel_mpi.drivers.virtual.remote import RemoteWorkers
from qafel_mpi.drivers.virtual.workers import Job, Result
from qafel_mpi.tasks.base import Poll
from qafel_mpi.trace.cut import positions_of
from qafel_mpi.transport.frames import Frame
from qafel_mpi.wire import Kind


class SettlingWorkers(RemoteWorkers):
    """RemoteWorkers that a run can be resumed with, and a resumed run replayed."""

    def __init__(self, session: Session, setup: Setup, *, gpus: bool, poll: Poll):
        super().__init__(session, setup, gpus=gpus, poll=poll)
        self._sent_to = dict.fromkeys(self.ranks, 0)
        self._positions = Asking(self.session.comm)
        self._kept = rows_of({})

    def _post(self, frame: Frame, rank: int) -> None:
        super()._post(frame, rank)
        self._sent_to[rank] += 1

    def give(self, x: Tensor, version: int) -> None:
        """See Workers.give."""
        frame = self._acquire(self.evaluations)
        size = self.setup.full.encode(x, frame.payload, 0)
        self._download = self._seal(frame, Kind.MODEL, payload_bytes=size, version=version)

    def leave(self, rank: int) -> None:
        """See RemoteWorkers."""
        super().leave(rank)
        del self._sent_to[rank]

    def settle(self) -> tuple[dict[Job, Result], dict[int, np.ndarray]]:
        """See Workers.settle."""

        def trained() -> bool:
            self._between_polls()
            self.poll()
            return not (any(self.outstanding.values()) or len(self.sends))

        self.session.wait(trained, lambda: f"what was handed out to {self._busy()}, for a checkpoint")
        positions = self._positions.of(self._sent_to, self.session.wait)
        if self.setup.kept:
            self._kept = gather(self.session.comm, self.ranks, self.session.wait)
        if gone := self.session.deaths.failures.gone:  # what they had written by then stays
            theirs = positions_of(self.session.recorder.directory, self.session.comm.size)
            positions |= {rank: theirs[rank] for rank in gone}
        return self._results, positions

    def kept(self) -> np.ndarray:
        """See Workers.kept. Each worker gives what its clients keep when it has told its positions."""
        return self._kept

    def give_back(self, kept: np.ndarray) -> None:
        """See Workers.give_back."""
        if self.setup.kept:
            spread_kept(self.session, kept)

    @property
    def sequence(self) -> int:
        """The number of the last message to a worker."""
        return self._sequence

    def restore(self, results: dict[Job, Result], version: int, sequence: int, x_hat: Tensor) -> None:
        """See Workers.restore."""
        if self.handover.history is not None:
            self.handover.history.begin(x_hat, version)
        self._results, self.version, self._sequence = results, version, sequence
