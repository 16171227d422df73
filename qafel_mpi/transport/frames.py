"""Frames: preallocated message buffers, and the requests that own them while MPI uses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from mpi4py import MPI

from qafel_mpi import wire
from qafel_mpi.kernels.aligned import aligned_bytes
from qafel_mpi.transport import large, mortal

_NAN = float("nan")
_NOTHING = wire.Expected()
AT_ONCE = 64  # ranks that one poll looks at


class Frame:
    """One message's buffer and what is known of it.

    buffer: (bytes,) uint8. payload: what lies behind the header: encode into it, then seal. references: the sends
    that still read the buffer. sent: what MPI reads of it, by slices: the buffer, but for payloads on a GPU
    (drivers/device_frames.py).
    """

    __slots__ = (
        "buffer",
        "data",
        "message",
        "payload",
        "references",
        "sent",
        "t_encode_begin",
        "t_encode_end",
    )

    def __init__(self, buffer: np.ndarray):
        # Views are made once: a frame is used for many messages, and each view costs as much as a test of a request.
        self.buffer = buffer
        self.payload = buffer[wire.HEADER_BYTES :]
        self.data = buffer.data
        self.sent: Any = buffer
        self.message: wire.Message | None = None
        self.t_encode_begin = self.t_encode_end = _NAN
        self.references = 0

    def seal(
        self,
        kind: wire.Kind,
        *,
        payload_bytes: int = 0,
        expected: wire.Expected = _NOTHING,
        client: int = 0,
        version: int = 0,
        sequence: int = 0,
        seed: int = 0,
        loss: float = 0.0,
        train_seconds: float = 0.0,
    ) -> Frame:
        """Write the header for the payload that already lies in the buffer (fields: see wire.py)."""
        e = expected
        self.message = wire.write(
            self.data,
            wire.message_of((
                kind, e.codec, e.bits, e.flags, client, version, sequence, payload_bytes, e.elements, seed,
                loss, train_seconds,
            )),
        )  # fmt: skip
        return self


def new_frame(payload_bytes: int) -> Frame:
    """A frame of its own, outside any pool."""
    return Frame(aligned_bytes(wire.HEADER_BYTES + payload_bytes))


@dataclass(eq=False)
class FramePool:
    """Frames of one size, reused. `limit` bounds how many there can be; without one it grows on need.

    make: a frame for so many bytes of payload.
    """

    payload_bytes: int
    limit: int | None = None
    make: Callable[[int], Frame] = new_frame
    free: list[Frame] = field(default_factory=list)
    made: int = 0

    def acquire(self) -> Frame | None:
        """A frame that nobody uses, or None where the limit is reached."""
        if self.free:
            return self.free.pop()
        if self.limit is not None and self.made >= self.limit:
            return None
        self.made += 1
        return self.make(self.payload_bytes)

    def release(self, frame: Frame) -> None:
        frame.message = None
        self.free.append(frame)


@dataclass(slots=True)
class Sent:
    """A send that has completed. Synchronous mode: complete means the receiver has matched it.

    last: no other send reads the frame any more. Of several that complete together one alone says so.
    matched: False where completion says that the buffer is free again and no more (collectives).
    """

    frame: Frame
    message: wire.Message
    rank: int
    t_post: float
    t_complete: float
    last: bool = False
    matched: bool = True


_Posted = tuple[MPI.Request, Frame, wire.Message, float]  # with t_post


class Sends:
    """The sends under way to any rank.

    Synchronous mode throughout: a standard send of a small message completes in a buffer of the MPI library at the
    receiver's end, which nothing bounds; a synchronous one completes when it is matched, so the number under
    way bounds the memory at both ends, and its completion time says when the receiver took it. Its answer costs
    0.1 to 0.2 µs at 72 bytes and nothing that can be measured at 15 kB, where a standard send waits for one too.

    peer: the only rank that is sent to. Then each frame keeps a persistent request, which costs 0.4 to 0.7 µs less
    to start than Issend to call; `close` frees them. Only for frames that are used again: it keeps them.

    lost: frames, with what they held, whose last receiver has died: nobody reads them any more, and they are the
    caller's to take. Where rank 0 has died its senders hear of it: what MPI raised.
    """

    def __init__(self, comm: MPI.Intracomm, tag: int, peer: int | None = None):
        self.comm, self.tag, self.peer = comm, tag, peer
        self.total = 0
        # By rank, what is under way to it: in the order posted, in which a rank matches messages.
        self._queues: dict[int, deque[_Posted]] = {}
        self._turn: deque[int] = deque()  # these ranks, the next to look at first
        self._under_way = 0
        self._persistent: dict[Frame, tuple[int, MPI.Request]] = {}  # with the bytes that it sends
        self.lost: list[tuple[Frame, wire.Message]] = []
        self._mortal = mortal.survives()

    def post(self, frame: Frame, rank: int) -> None:
        message = frame.message
        assert message is not None, "a frame is sealed before it is sent"
        size = wire.HEADER_BYTES + message.payload_bytes
        if self.lost:  # posted to a rank that had died before, and now to another
            self.lost = [each for each in self.lost if each[0] is not frame]
        frame.references += 1
        if rank == self.peer:
            known = self._persistent.get(frame)
            request = known[1] if known is not None and known[0] == size else self._prepare(frame, size)
            t_post = perf_counter()
            request.Start()  # type: ignore[attr-defined]
        else:
            t_post = perf_counter()
            try:
                request = self.comm.Issend(large.spec(frame.sent, size), rank, self.tag)
            except MPI.Exception as error:
                if rank == 0 or not mortal.is_death(error):
                    raise
                self._lose(frame, message)
                return
        if (queue := self._queues.get(rank)) is None:
            queue = self._queues[rank] = deque()
            self._turn.append(rank)
        queue.append((request, frame, message, t_post))
        self.total += 1
        self._under_way += 1

    def _prepare(self, frame: Frame, size: int) -> MPI.Request:
        """The frame's request, made anew where messages differ in size."""
        if (old := self._persistent.pop(frame, None)) is not None:
            old[1].Free()
        assert self.peer is not None, "only asked for messages to the one peer"
        request = self.comm.Ssend_init(large.spec(frame.sent, size), self.peer, self.tag)
        self._persistent[frame] = (size, request)
        return request

    def close(self) -> None:
        """Free the persistent requests; none is under way any more."""
        for _, request in self._persistent.values():
            request.Free()
        self._persistent.clear()

    def poll(self) -> list[Sent]:
        """Sends that have completed since the last call: of AT_ONCE ranks at the most, the next ones in turn.

        So a poll takes as long with 10,000 messages under way as with 64; and it looks at the first to each rank,
        and at those behind it only when that has completed.
        """
        turn, queues = self._turn, self._queues
        if not turn:
            return []
        if len(turn) == 1:  # a Test takes a fifth of Testsome's time
            rank = turn[0]
            done = self._take(rank) if self._first_is_done(rank) else []
            if rank not in queues:
                turn.clear()
            return done
        some = [turn.popleft() for _ in range(min(len(turn), AT_ONCE))]
        if self._mortal:
            ready = [rank for rank in some if self._first_is_done(rank)]
        else:
            ready = [some[i] for i in MPI.Request.Testsome([queues[rank][0][0] for rank in some]) or ()]
        done = [sent for rank in ready for sent in self._take(rank)]
        turn.extend(rank for rank in some if rank in queues)
        return done

    def _take(self, rank: int) -> list[Sent]:
        """The first send to a rank, which has completed, and those behind it that have too."""
        queue, now, done = self._queues[rank], perf_counter(), []
        while True:
            _, frame, message, t_post = queue.popleft()
            frame.references -= 1
            done.append(Sent(frame, message, rank, t_post, now, last=frame.references == 0))
            if not queue:
                del self._queues[rank]
                break
            if not self._first_is_done(rank):
                break
        self._under_way -= len(done)
        return done

    def _first_is_done(self, rank: int) -> bool:
        """Whether the first send to a rank has completed. All that goes to a rank which has died is lost."""
        queue = self._queues[rank]
        while queue:
            try:
                return queue[0][0].Test()
            except MPI.Exception as error:
                if rank == 0 or not mortal.is_death(error):
                    raise
            _, frame, message, _ = queue.popleft()
            self._under_way -= 1
            self._lose(frame, message)
        del self._queues[rank]
        return False

    def _lose(self, frame: Frame, message: wire.Message) -> None:
        frame.references -= 1
        if not frame.references:
            self.lost.append((frame, message))

    def under_way(self, rank: int) -> int:
        """Messages that a rank has not taken yet, or that no poll has seen it take."""
        return len(self._queues.get(rank, ()))

    def late(self) -> list[int]:
        """The ranks that something is under way to."""
        return sorted(self._queues)

    def __len__(self) -> int:
        return self._under_way
