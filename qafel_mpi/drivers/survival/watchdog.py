"""What waits in vain, or gives no sign, ends the job after transport.watchdog_seconds, and says who waits for whom.

Three views of it, since a rank that hangs can't be relied on to say so:

- a rank that waits knows for whom and for which message (Session.wait; transport.backoff.WaitedTooLongError);
- rank 0 knows which rank has sent nothing, and which takes nothing (clients.py, with Silence);
- a thread of each rank sees that the rank's main thread has not come by for too long, and where it is (Watchdog).
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable
from threading import Event, Thread, get_ident
from time import perf_counter

from qafel_mpi.transport.backoff import WaitedTooLongError

LOOKS = 4  # in the time after which a rank is given up
LONGEST_LOOK_SECONDS = 15.0  # between two of them
FRAMES = 3  # of the stack of a rank that hangs, that its message shows
EXIT_CODE = 3  # of a job that is given up: commands.process.ExitCode.FAILED


class Silence:
    """Which of several ranks have given no sign for longer than limit_s; a sign is a value that has changed.

    Looks at all ranks LOOKS times in limit_s, so it costs nothing where it is asked in every turn of a loop.
    """

    def __init__(self, ranks: Iterable[int], limit_s: float, now_s: float):
        self._limit_s = limit_s
        self._seen: dict[int, tuple[object, float]] = dict.fromkeys(
            ranks, (self, now_s)
        )  # the sign, and since when
        self._due_s = now_s

    def look(self, now_s: float, sign: Callable[[int], object]) -> dict[int, float]:
        """By rank, the seconds of a silence that is too long; {} at most times. sign: a rank's; None: it is well."""
        if now_s < self._due_s:
            return {}
        self._due_s = now_s + min(self._limit_s / LOOKS, LONGEST_LOOK_SECONDS)
        for rank, (before, _) in self._seen.items():
            now = sign(rank)
            if now is None or now != before:
                self._seen[rank] = (now, now_s)
        return {rank: now_s - s for rank, (_, s) in self._seen.items() if now_s - s > self._limit_s}


class Watchdog:
    """A thread that ends the job where this rank's main thread does not come by: an endless loop, a call that hangs.

    alive_s: when it came by last. end: ends the job on all ranks, from a thread; it is told why.
    """

    def __init__(self, limit_s: float, alive_s: Callable[[], float], end: Callable[[str], None]):
        self._limit_s, self._alive_s, self._end = limit_s, alive_s, end
        self.main = get_ident()  # the thread that is watched
        self._over = Event()

    def start(self) -> None:
        if self._limit_s < float("inf"):
            Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """The main thread may take its time from now on."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(self._limit_s / LOOKS, LONGEST_LOOK_SECONDS)):
            silent_s = perf_counter() - self._alive_s()
            if silent_s > self._limit_s:
                where = _where(self.main)
                self._end(
                    str(
                        WaitedTooLongError(
                            f"has done nothing else for {silent_s:.0f} s: {where}", self._limit_s
                        )
                    )
                )
                return


def _where(thread: int) -> str:
    """Where a thread is, the innermost call first: "loss in model.py:17, called by ..."."""
    frame = sys._current_frames().get(thread)
    calls = [] if frame is None else [*reversed(traceback.extract_stack(frame))][:FRAMES]
    places = [f"{call.name} in {os.path.basename(call.filename)}:{call.lineno}" for call in calls]
    return ", called by ".join(places)
