"""Ctrl-C, SIGTERM and SIGUSR1 (a batch system's warning): a question while a run goes on, an end where none does.

Python runs a signal's handler between two of its instructions, so a call into C that takes long (MPI waiting for a
rank that is stuck, a large matrix product) holds it up. A thread hears of the signal in any case: it says at once how
to find what is recorded, and ends the job on a second Ctrl-C that the handler has not come to.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from types import FrameType

from qafel_mpi.commands.launcher import launcher_rank

HANDLER_SECONDS = 2.0  # the thread leaves so much time to the handler of a second Ctrl-C
SAYING_SECONDS = 0.5  # the thread has so much time to say what it has begun to
AGAIN_CODE = 130  # of an end by a second Ctrl-C, as a shell has it: 128 + SIGINT
START_CODE = 75  # EX_TEMPFAIL, as ExitCode.INTERRUPTED: nothing was done, so start it again


class Interruption(BaseException):
    """A signal that ends this process now. No Exception: what handles a run's failures is not to handle it.

    code: the exit code.
    """

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.code = code


class Interrupt:
    """The signals as a question that a driver asks between steps, and between the steps of a training.

    Until it is asked first, after `starting`, a signal ends the job at once: there is nothing yet that is worth the
    seconds of a start-up. Rank 0's answer counts; the other ranks go on until it ends the run. A second Ctrl-C does
    not wait. Raises Interruption from the handler.

    end: ends the job on all ranks from the thread, with a code and a message, where this rank's Python is stuck.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, end: Callable[[int, str], None] | None = None) -> None:
        self._received = False
        self._starting = True
        self._end = end
        rank = launcher_rank()
        self._leads, self._launched = not rank, rank is not None
        self.recorded = ""  # how to find what is recorded, in words; said when the first signal comes

    def __call__(self) -> bool:
        self._starting = False
        return self._received

    def starting(self) -> None:
        """A run begins: until it asks, a signal ends the job. Call it once MPI is up.

        MPICH's MPI_Init has taken SIGUSR1: it hears of ranks that died, and hangs looking for them where no
        launcher is.
        """
        self._starting = True
        signal.signal(signal.SIGUSR1, self._on_signal)

    def __enter__(self) -> Interrupt:
        self._read, write = os.pipe()
        os.set_blocking(write, False)
        self._write = write
        self._wakeup_before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}
        self._thread = Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._write)  # the thread reads the end of it
        self._thread.join(SAYING_SECONDS)  # what it has to say comes before what follows

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._received and number == signal.SIGINT:
            raise Interruption(self._words("interrupted again: the job ends at once"), AGAIN_CODE)
        self._received = True
        if self._starting and self._leads:
            raise Interruption(f"{name} before the run began: nothing is recorded", START_CODE)

    def _words(self, what: str) -> str:
        return f"{what}; {self.recorded}" if self.recorded else what

    def _listen(self) -> None:
        """On the thread. What is in C may be so for ever; a handler that has run ends the process meanwhile."""
        seen = 0
        with os.fdopen(self._read, "rb", buffering=0) as signals:
            while numbers := signals.read(16):
                for number in numbers:
                    if number not in self.SIGNALS:
                        continue
                    seen += 1
                    if seen == 1 and self._leads and not self._starting and self.recorded:
                        name = signal.Signals(number).name
                        words = f"{name}: the run ends; if no summary follows: {self.recorded}"
                        _say(words)
                        if self._launched and number == signal.SIGTERM:
                            _say_on_the_terminal(words)
                    if seen > 1 and number == signal.SIGINT and self._leads and self._end is not None:
                        time.sleep(HANDLER_SECONDS)
                        self._end(AGAIN_CODE, self._words("interrupted again: the job ends at once"))


def _say_on_the_terminal(text: str) -> None:
    """Of rank 0's host, where the job was started there: Open MPI's mpirun that gets a Ctrl-C ends its ranks with
    SIGTERM, passes nothing on that they say from then on, and kills them a quarter of a second later."""
    signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGTTOU}
    )  # of this thread: a rank runs in the background
    with suppress(OSError), open("/dev/tty", "w", encoding="utf-8") as terminal:
        print(f"\nqafel-mpi: {text}", file=terminal, flush=True)


def _say(text: str) -> None:
    with suppress(OSError, ValueError):
        print(f"qafel-mpi: {text}", file=sys.stderr, flush=True)
