"""What waits in vain, or gives no sign, ends the job after transport.watchdog_seconds, and says who waits for whom.

Three views of it, since a rank that hangs can't be relied on to say so:

- a rank that waits knows for whom and for which message (Session.wait; transport.backoff.WaitedTooLongError);
- rank 0 knows which rank has sent nothing, and which takes nothing (ClientsWatch);
- a thread of each rank sees that the rank's main thread has not come by for too long, and where it is (Watchdog).
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable
from threading import Event, Thread, get_ident
from time import perf_counter
from typing import TYPE_CHECKING

from qafel_mpi.transport.backoff import WaitedTooLongError, some_ranks
from qafel_mpi.transport.broadcast import Root

if TYPE_CHECKING:
    from qafel_mpi.drivers.session import Session
    from qafel_mpi.drivers.wall.senders import Senders

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


class ClientsWatch:
    """Rank 0's view of the client ranks of a wall run. Raises WaitedTooLongError."""

    def __init__(self, session: Session, senders: Senders, broadcast: Root):
        self.session, self.senders, self.broadcast = session, senders, broadcast
        self.begin()

    def begin(self) -> None:
        """The clients begin to train now."""
        ranks, limit_s, now_s = self.senders.taken, self.session.watchdog_s, self.session.now_s()
        self._sends, self._takes = Silence(ranks, limit_s, now_s), Silence(ranks, limit_s, now_s)
        self._ended: Silence | None = None
        # When rank 0 last heard anything, or could pass a broadcast on; and when it last said that it does not.
        self.heard_s = self._said_s = now_s

    def look(self) -> None:
        """From every loop of rank 0's. Never waits."""
        now_s = self.session.now_s()
        if self._ended is not None:
            if late := self._ended.look(now_s, self._ends):
                raise self._gave_up(late, "has not said goodbye", "rank 0 waits for that")
            return
        if self.senders.taken and now_s - max(self.heard_s, self._said_s) > self.session.patience_s:
            self._complain(now_s)
        if self.senders.taken and now_s - self.heard_s > self.session.watchdog_s:
            raise self._gave_up(
                self._fewest(now_s), "has sent nothing", "rank 0 waits for an update of any rank"
            )
        if late := self._sends.look(now_s, self._sent):
            raise self._gave_up(
                late, "has given no sign", "rank 0 waits for an update, or for the time there"
            )
        if late := self._takes.look(now_s, self.broadcast.unread):
            raise self._gave_up(late, "has read nothing", "rank 0 waits for it to take broadcasts")

    def _complain(self, now_s: float) -> None:
        self._said_s = now_s
        ((least, silent_s),) = self._fewest(now_s).items()
        fewest = f"rank {least} has sent the fewest, {self.senders.taken[least]}"
        print(
            f"qafel-mpi: rank 0 has waited {silent_s:.0f} s for any upload; {fewest}",
            file=sys.stderr,
            flush=True,
        )

    def _fewest(self, now_s: float) -> dict[int, float]:
        """The rank that has sent the fewest updates, and for how long rank 0 has heard nothing of anybody."""
        taken = self.senders.taken
        return {min(taken, key=lambda rank: taken[rank]): now_s - self.heard_s}

    def ending(self) -> None:
        """Every rank has been told to stop: from now on each must come nearer to its goodbye."""
        self._ended = Silence(self.senders.taken, self.session.watchdog_s, self.session.now_s())

    def _sent(self, rank: int) -> object:
        return (
            None
            if rank not in self.senders.taken
            else (self.senders.taken[rank], self.session.syncs.get(rank))
        )

    def _ends(self, rank: int) -> object:
        if rank not in self.senders.owing:
            return None
        # What it still uploads is no sign where it does not read that it is to stop.
        if (unread := self.broadcast.unread(rank)) is not None:
            return unread
        return self.senders.taken[rank] if self.broadcast.knows_readers else "its goodbye alone is a sign"

    def _gave_up(self, late: dict[int, float], what: str, meanwhile: str) -> WaitedTooLongError:
        hosts, taken = self.session.placement.hosts, self.senders.taken
        first = min(late)
        more = f" (nor have {some_ranks(late.keys() - {first})})" if len(late) > 1 else ""
        detail = (
            f"rank {first} on {hosts[first]} {what} for {late[first]:.0f} s{more}, after {taken[first]} updates; "
            f"{meanwhile}"
        )
        self.session.fault("waited too long", first, version=self.broadcast.version, detail=detail)
        self.session.recorder.flush()
        return WaitedTooLongError(detail, self.session.watchdog_s)


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
