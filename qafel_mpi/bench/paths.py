"""The ways a message can go between two ranks: ours (header, checksum, pools) and raw mpi4py, on equal buffers.

Both keep at most `window` messages under way. Bytes only: nothing is encoded here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from mpi4py import MPI

from qafel_mpi import wire
from qafel_mpi.bench.ranks import pattern, wrong_bytes
from qafel_mpi.transport.frames import FramePool, Inbox, Sends, aligned_bytes

TAG_OURS, TAG_RAW = 21, 22
RAW = "raw mpi4py Isend/Irecv"


class RawPath:
    """Isend and Irecv, a request a message. What the reference does is all that it does."""

    def __init__(self, comm: MPI.Intracomm, peer: int, size: int, window: int):
        self.comm, self.peer, self.window = comm, peer, window
        self.out = [aligned_bytes(size) for _ in range(window)]
        self.into = [aligned_bytes(size) for _ in range(window)]
        for buffer in self.out:
            buffer[:] = pattern(size, comm.rank)

    def send(self, count: int) -> None:
        """Send `count` messages and wait until their buffers are free."""
        requests: list[MPI.Request] = []
        for i in range(count):
            if i >= self.window:
                requests[i % self.window].Wait()
            request = self.comm.Isend([self.out[i % self.window], MPI.BYTE], self.peer, TAG_RAW)
            if i < self.window:
                requests.append(request)
            else:
                requests[i % self.window] = request
        MPI.Request.Waitall(requests)

    def receive(self, count: int) -> None:
        post = range(min(count, self.window))
        requests = [self.comm.Irecv([self.into[i], MPI.BYTE], self.peer, TAG_RAW) for i in post]
        for i in range(count):
            slot = i % self.window
            requests[slot].Wait()
            if i + self.window < count:
                requests[slot] = self.comm.Irecv([self.into[slot], MPI.BYTE], self.peer, TAG_RAW)

    def wrong(self) -> int:
        """Bytes of the last message received that are not what the peer sent."""
        return wrong_bytes(self.into[0], pattern(self.into[0].size, self.peer))

    def close(self) -> None:
        """Nothing is kept posted."""


class OurPath:
    """What the drivers do with a message, without encoding, decoding and the trace's row."""

    def __init__(self, comm: MPI.Intracomm, peer: int, size: int, window: int):
        self.peer, self.size = peer, size
        self.described = {wire.Kind.UPDATE: wire.Expected(payload_bytes=size)}
        self.pool = FramePool(size, limit=window)
        self.sends = Sends(comm, TAG_OURS)
        self.inbox = Inbox(comm, TAG_OURS, payload_bytes=size, slots=window, source=peer)
        self.sent = 0
        self.last = np.zeros(0, dtype=np.uint8)
        content = pattern(size, comm.rank)
        for frame in [self.pool.acquire() for _ in range(window)]:
            assert frame is not None
            frame.payload[:] = content
            self.pool.release(frame)

    def send(self, count: int) -> None:
        for _ in range(count):
            while (frame := self.pool.acquire()) is None:
                self.progress()
            frame.seal(
                wire.Kind.UPDATE,
                expected=self.described[wire.Kind.UPDATE],
                payload_bytes=self.size,
                sequence=self.sent,
            )
            self.sent += 1
            self.sends.post(frame, self.peer)
        while len(self.sends):
            self.progress()

    def progress(self) -> None:
        for sent in self.sends.poll():
            self.pool.release(sent.frame)

    def receive(self, count: int) -> None:
        while count:
            for received in self.inbox.poll():
                wire.check(received.buffer, received.wire_bytes, self.described, rank=received.source)
                self.last = received.buffer[wire.HEADER_BYTES : received.wire_bytes]
                self.inbox.release(received.slot)
                count -= 1

    def wrong(self) -> int:
        return wrong_bytes(self.last, pattern(self.size, self.peer))

    def close(self) -> None:
        self.inbox.close()


Path = RawPath | OurPath


def validate(path: Path, sends_first: bool) -> Iterator[int]:
    """Wrong bytes of a few messages each way, before anything is timed. A WireError says more and ends the job."""
    for _ in range(3):
        if sends_first:
            path.send(1)
            path.receive(1)
        else:
            path.receive(1)
            path.send(1)
        yield path.wrong()
