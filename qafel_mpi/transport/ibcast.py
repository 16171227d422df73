"""Broadcast of q^t by MPI_Ibcast, on communicators of its own: the MPI library chooses the way.

Every rank calls the same collectives in the same order, so every rank gets every version, in order. An Ibcast has one
size at all ranks: that of a frame with its payload, which must be known beforehand.

Bounds: at rank 0 an Ibcast completes when the buffer is free, which says nothing of the receivers, and what they have
not posted yet the MPI library would keep for them without limit. So an Ibarrier, after every half `queue_limit`
of broadcasts, tells rank 0 that all have applied so many: it publishes at most `queue_limit` ahead of the slowest.

The end: a posted Ibcast cannot be cancelled, and clients keep RING of them posted. RING STOPs, each as long as a
broadcast, match them.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter

from mpi4py import MPI

from qafel_mpi import wire
from qafel_mpi.transport.frames import Frame, FramePool, Sent, new_frame
from qafel_mpi.transport.inbox import Received
from qafel_mpi.transport.large import Ibcasts

RING = 2  # Ibcasts that a client keeps posted: one is filled while the other is applied


class _Credits:
    """Ibarriers: the k-th completes when every rank has entered it, which is done with k · `every` broadcasts."""

    def __init__(self, comm: MPI.Intracomm, queue_limit: int):
        self.comm = comm.Dup()
        self.every = max(1, queue_limit // 2)
        self.complete = 0
        self._entered: deque[MPI.Request] = deque()

    def count(self, broadcasts: int) -> None:
        """This rank is done with so many."""
        if broadcasts % self.every == 0:
            self._entered.append(self.comm.Ibarrier())

    def poll(self) -> None:
        while self._entered and self._entered[0].Test():
            self._entered.popleft()
            self.complete += 1

    @property
    def idle(self) -> bool:
        return not self._entered


class Ibcast:
    """Rank 0's end. publish() may be called where `ready`: else the caller waits (see waits)."""

    skipped = 0  # versions that a rank never got: none
    knows_readers = False

    def __init__(self, comm: MPI.Intracomm, *, payload_bytes: int, queue_limit: int):
        self.comm, self.credits = comm.Dup(), _Credits(comm, queue_limit)
        self.pool = FramePool(payload_bytes)
        self.clients, self.queue_limit = range(1, comm.size), queue_limit
        self.version = 0  # of the next frame
        self.calls = 0
        self.link_bytes = (
            0  # payload, as often as a client gets it; what the library's way costs is not known
        )
        self._under_way: deque[tuple[Ibcasts, Frame, float]] = deque()

    def begin_at(self, version: int) -> None:
        """Of a run that is resumed: every rank holds this version."""
        self.version = version

    def frame(self) -> Frame:
        """A buffer for the next payload."""
        frame = self.pool.acquire()
        assert frame is not None, "the broadcast pool has no limit: queue_limit bounds it"
        return frame

    def publish(self, frame: Frame) -> None:
        """Broadcast a sealed frame, version t = self.version."""
        assert self.ready, "the caller waits until a frame may be published"
        assert frame.message is not None
        self.version += 1
        self.link_bytes += frame.message.payload_bytes * len(self.clients)
        self._post(frame)

    def poll(self) -> list[Sent]:
        """Progress: the broadcasts whose buffers are free again, a row for each client."""
        self.credits.poll()
        done = []
        while self._under_way and self._under_way[0][0].Test():
            _, frame, t_post = self._under_way.popleft()
            now, message = perf_counter(), frame.message
            assert message is not None
            done += [Sent(frame, message, rank, t_post, now, matched=False) for rank in self.clients]
            self.pool.release(frame)
        return done

    def end(self, version: int) -> None:
        """STOPs behind the last broadcast, as many as clients have posted receives."""
        for _ in range(RING):
            frame = self.frame()
            frame.payload[:] = 0
            size = self.pool.payload_bytes
            self._post(
                frame.seal(
                    wire.Kind.STOP,
                    payload_bytes=size,
                    expected=stop_of(size),
                    version=version,
                    sequence=version,
                )
            )

    @property
    def ready(self) -> bool:
        """Another frame may be published."""
        ahead = self.calls - self.credits.every * self.credits.complete
        return max(ahead, len(self._under_way)) < self.queue_limit

    @property
    def idle(self) -> bool:
        """All ranks have all but the last few, whose buffers are free."""
        return not self._under_way and self.credits.idle

    @property
    def total(self) -> int:
        """Messages, one for each client."""
        return self.calls * len(self.clients)

    def waits(self) -> str:
        """What holds rank 0 up, in words: a collective does not say who is late."""
        done = self.credits.every * self.credits.complete
        return (
            f"all ranks to apply broadcasts: at least one has applied fewer than {done + self.credits.every}"
        )

    def unread(self, rank: int) -> object:
        """None: a collective does not say who is late."""
        return None

    def close(self) -> None:
        """Collective."""
        self.comm.Free()
        self.credits.comm.Free()

    def _post(self, frame: Frame) -> None:
        t_post = perf_counter()
        self._under_way.append((Ibcasts(self.comm, frame.buffer), frame, t_post))
        self.calls += 1
        self.credits.count(self.calls)


class Ring:
    """A client's end: Ibcasts posted ahead."""

    passed_total = 0
    late: tuple[int, ...] = ()  # a collective does not say who is

    def __init__(self, comm: MPI.Intracomm, *, payload_bytes: int, queue_limit: int):
        self.comm, self.credits = comm.Dup(), _Credits(comm, queue_limit)
        self.stop = stop_of(payload_bytes)
        self.total = 0  # messages received
        self.released = 0
        self.stopped = False
        self.frames = [new_frame(payload_bytes) for _ in range(RING)]
        self._posted: deque[tuple[int, Ibcasts, float]] = deque()
        for slot in range(RING):
            self._post(slot)

    def poll(self) -> list[Received]:
        """The next message, if it has arrived."""
        if not self._posted or not self._posted[0][1].Test():
            return []
        slot, _, t_post = self._posted.popleft()
        self.total += 1
        frame = self.frames[slot]
        return [Received(slot, frame.data, frame.payload, 0, t_post, perf_counter())]

    def pass_on(self, received: Received, message: wire.Message) -> None:
        """Nothing to send; after a STOP nothing is posted again."""
        self.stopped = self.stopped or message.kind == wire.Kind.STOP

    def passed(self) -> list[Sent]:
        """Progress of the Ibarriers; what the library passes on is not seen here."""
        self.credits.poll()
        return []

    def release(self, slot: int) -> None:
        """The slot's bytes are not needed any more."""
        self.released += 1
        self.credits.count(self.released)
        if not self.stopped:
            self._post(slot)

    @property
    def idle(self) -> bool:
        """Nothing is left for rank 0 or the others to wait for."""
        return self.credits.idle and not (self.stopped and self._posted)

    def waits(self) -> str:
        return "all ranks to apply as many broadcasts"

    def close(self) -> None:
        """Collective; only after the STOPs."""
        self.comm.Free()
        self.credits.comm.Free()

    def _post(self, slot: int) -> None:
        t_post = perf_counter()
        self._posted.append((slot, Ibcasts(self.comm, self.frames[slot].buffer), t_post))


def stop_of(payload_bytes: int) -> wire.Expected:
    """What the header of a STOP says: a payload as long as every broadcast's."""
    return wire.Expected(payload_bytes=payload_bytes)
