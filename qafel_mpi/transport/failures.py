"""A failure on one rank ends the job on all ranks, with one message; interrupts are a flag to look at."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mpi4py import MPI

EXIT_FAILED = 3


@contextmanager
def abort_on_exception(comm: MPI.Intracomm) -> Iterator[None]:
    """An exception that reaches here is printed once, with the rank, and ends every rank within seconds.

    With one rank it is simply raised. A clean end never comes here, so that MPI is finalised and not aborted.
    """
    try:
        yield
    except Exception:
        if comm.size == 1:
            raise
        host = MPI.Get_processor_name()
        text = traceback.format_exc()
        print(
            f"qafel-mpi: rank {comm.rank} on {host} failed; the job ends on all ranks\n{text}",
            file=sys.stderr,
        )
        sys.stderr.flush()
        comm.Abort(EXIT_FAILED)


class Interrupt:
    """Set by SIGINT, SIGTERM or SIGUSR1 (Slurm's warning before a time limit); loops look at `name`.

    A second SIGINT raises KeyboardInterrupt, for a user who does not want to wait for the clean end.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.name = ""
        self._before: dict[int, object] = {}

    def __bool__(self) -> bool:
        return bool(self.name)

    def __enter__(self) -> Interrupt:
        for number in self.SIGNALS:
            self._before[number] = signal.signal(number, self._set)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _set(self, number: int, frame: FrameType | None) -> None:
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
