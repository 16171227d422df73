"""Rank 0's view of the client ranks of a wall run: who sends nothing, reads nothing, or does not come to its end."""

from __future__ import annotations

import sys

from qafel_mpi.drivers.session import Session
from qafel_mpi.drivers.survival.watchdog import LONGEST_LOOK_SECONDS, LOOKS, Silence
from qafel_mpi.drivers.wall.senders import Senders
from qafel_mpi.transport.backoff import WaitedTooLongError, some_ranks
from qafel_mpi.transport.broadcast import Root


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
        self.heard_s = self._said_s = self._due_s = now_s

    def look(self) -> None:
        """From every loop of rank 0's. Never waits."""
        now_s = self.session.now_s()
        if now_s < self._due_s:
            return
        shortest_s = min(self.session.patience_s, self.session.watchdog_s)
        self._due_s = now_s + min(shortest_s / LOOKS, LONGEST_LOOK_SECONDS)
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
        return {min(self.senders.active or taken, key=lambda rank: taken[rank]): now_s - self.heard_s}

    def ending(self) -> None:
        """Every rank has been told to stop: from now on each must come nearer to its goodbye."""
        self._ended = Silence(self.senders.taken, self.session.watchdog_s, self.session.now_s())
        self._told: dict[int, int] = {}  # by rank that knows it, the updates it had sent when that was seen

    def _sent(self, rank: int) -> object:
        if rank not in self.senders.taken or rank in self.senders.gone:
            return None
        return (self.senders.taken[rank], self.session.syncs.get(rank))

    def _ends(self, rank: int) -> object:
        if rank not in self.senders.owing:
            return None
        # What it still uploads is no sign where it does not read that it is to stop.
        if (unread := self.broadcast.unread(rank)) is not None:
            return unread
        if not self.broadcast.knows_readers:
            return "its goodbye alone is a sign"
        # One that knows sends what it has begun and no more; one that goes on has lost the message.
        more = self.senders.taken[rank] - self._told.setdefault(rank, self.senders.taken[rank])
        return min(more, self.session.experiment.transport.upload_frames + 1)

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
