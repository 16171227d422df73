"""Frames: preallocated message buffers, and the requests that own them while MPI uses them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from mpi4py import MPI

from qafel_mpi import wire

_NAN = float("nan")
_NOTHING = wire.Expected()
ALIGNMENT = 64  # bytes: a cache line, and enough for every SIMD load of a payload


def aligned_bytes(size: int) -> np.ndarray:
    """An uninitialised uint8 array of `size` bytes whose address is a multiple of ALIGNMENT."""
    raw = np.empty(size + ALIGNMENT, dtype=np.uint8)
    offset = -raw.ctypes.data % ALIGNMENT
    return raw[offset : offset + size]


@dataclass(slots=True, eq=False)
class Frame:
    """One message's buffer and what is known of it. references counts the sends that still read it."""

    buffer: np.ndarray
    message: wire.Message | None = None
    t_encode_begin: float = float("nan")
    t_encode_end: float = float("nan")
    references: int = 0

    @property
    def payload(self) -> np.ndarray:
        """The buffer behind the header: encode into this, then seal."""
        return self.buffer[wire.HEADER_BYTES :]

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
        """Write the header for the payload that already lies in the buffer (fields: see wire.pack)."""
        e = expected
        self.message = wire.write(
            self.buffer,
            wire.Message(
                kind, e.codec, e.bits, e.flags, client, version, sequence, payload_bytes, e.elements, seed,
                loss, train_seconds,
            ),
        )  # fmt: skip
        return self


def new_frame(payload_bytes: int) -> Frame:
    """A frame of its own, outside any pool."""
    return Frame(aligned_bytes(wire.HEADER_BYTES + payload_bytes))


@dataclass(eq=False)
class FramePool:
    """Frames of one size, reused. `limit` bounds how many there can be; without one it grows on need."""

    payload_bytes: int
    limit: int | None = None
    free: list[Frame] = field(default_factory=list)
    made: int = 0

    def acquire(self) -> Frame | None:
        """A frame that nobody uses, or None where the limit is reached."""
        if self.free:
            return self.free.pop()
        if self.limit is not None and self.made >= self.limit:
            return None
        self.made += 1
        return new_frame(self.payload_bytes)

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


class Sends:
    """The sends under way to any rank.

    MPI_Issend throughout: a standard send of a small message completes in a buffer of the MPI library at the
    receiver's end, which nothing bounds; a synchronous one completes when it is matched, so the number under
    way bounds the memory at both ends, and its completion time says when the receiver took it.
    """

    def __init__(self, comm: MPI.Intracomm, tag: int):
        self.comm, self.tag = comm, tag
        self.under_way: dict[int, int] = {}
        self.total = 0
        self._requests: list[MPI.Request] = []
        self._sent: list[Sent] = []

    def post(self, frame: Frame, rank: int) -> None:
        message = frame.message
        assert message is not None, "a frame is sealed before it is sent"
        buffer, size = frame.buffer, message.wire_bytes
        frame.references += 1
        t_post = perf_counter()
        self._requests.append(
            self.comm.Issend([buffer if size == len(buffer) else buffer[:size], MPI.BYTE], rank, self.tag)
        )
        self._sent.append(Sent(frame, message, rank, t_post, _NAN))
        self.under_way[rank] = self.under_way.get(rank, 0) + 1
        self.total += 1

    def poll(self) -> list[Sent]:
        """The sends that have completed since the last call."""
        requests = self._requests
        if not requests:
            return []
        if len(requests) == 1:  # a client's usual case, in a fifth of Testsome's time
            if not requests[0].Test():
                return []
            done, self._sent, self._requests = self._sent, [], []
        else:
            indices = MPI.Request.Testsome(requests)
            if not indices:
                return []
            done = [self._sent[i] for i in indices]
            finished = set(indices)
            self._requests = [r for i, r in enumerate(requests) if i not in finished]
            self._sent = [s for i, s in enumerate(self._sent) if i not in finished]
        now = perf_counter()
        for sent in done:
            sent.t_complete = now
            sent.frame.references -= 1
            sent.last = sent.frame.references == 0
            self.under_way[sent.rank] -= 1
        return done

    def __len__(self) -> int:
        return len(self._requests)


@dataclass(slots=True, eq=False)
class Received:
    """A message that has arrived, unverified. `buffer` is the inbox's until `release`."""

    slot: int
    buffer: np.ndarray
    source: int
    wire_bytes: int
    t_post: float
    t_complete: float


class Inbox:
    """Preposted persistent receives. From one source messages come out in the order sent, else as they come.

    slots × frame bytes is all the memory it takes, whatever the number of senders: a sender that finds no
    slot waits at its own end.
    """

    def __init__(self, comm: MPI.Intracomm, tag: int, *, payload_bytes: int, slots: int, source: int):
        size = wire.HEADER_BYTES + payload_bytes
        self.buffers = [aligned_bytes(size) for _ in range(slots)]
        self._requests = [comm.Recv_init([b, MPI.BYTE], source, tag) for b in self.buffers]
        self._posted_s = [0.0] * slots
        self._ordered = source != MPI.ANY_SOURCE
        self._posted: deque[int] = deque()  # slots in the order posted, in which messages match them
        self._status = MPI.Status()
        self._statuses = [MPI.Status() for _ in range(slots)]
        self.total = 0
        for slot in range(slots):
            self.release(slot)

    def release(self, slot: int) -> None:
        """Post the slot again: its bytes are not needed any more."""
        self._posted_s[slot] = perf_counter()
        self._posted.append(slot)
        self._requests[slot].Start()

    def poll(self) -> list[Received]:
        """Messages that have arrived. Each slot must be released before it can receive again."""
        posted, requests, status = self._posted, self._requests, self._status
        # Testing the slot that matches first takes a fifth of Testsome's time.
        if posted and requests[posted[0]].Test(status):
            return [self._received(posted.popleft(), status)]
        if self._ordered or not posted:
            # A small message may complete before a large one ahead of it: it waits its turn.
            return []
        indices = MPI.Request.Testsome(requests, self._statuses) or ()
        for slot in indices:
            posted.remove(slot)
        return [self._received(slot, self._statuses[i]) for i, slot in enumerate(indices)]

    def _received(self, slot: int, status: MPI.Status) -> Received:
        self.total += 1
        return Received(
            slot,
            self.buffers[slot],
            status.Get_source(),
            status.Get_count(MPI.BYTE),
            self._posted_s[slot],
            perf_counter(),
        )

    def close(self) -> None:
        """Cancel the receives that are still posted, and free the requests."""
        for slot in self._posted:
            self._requests[slot].Cancel()
            self._requests[slot].Wait()
        for request in self._requests:
            request.Free()
