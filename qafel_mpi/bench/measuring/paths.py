"""The ways messages can go between ranks: ours (header, checksum, pools) and raw mpi4py, on equal buffers.

Both keep at most `window` messages under way to or from a rank. Bytes only: nothing is encoded here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np
from mpi4py import MPI

from qafel_mpi import codecs, wire
from qafel_mpi.kernels.aligned import aligned_bytes
from qafel_mpi.transport.backoff import Backoff
from qafel_mpi.transport.coverage import Coverage
from qafel_mpi.transport.frames import Frame, FramePool, Sends
from qafel_mpi.transport.inbox import Inbox, Received

TAG_OURS, TAG_RAW = 21, 22
RAW = "raw mpi4py Isend/Irecv"
CHECKSUMS = get_args(Coverage)  # what a message's checksum may cover: "full", "header"

# What is done with messages of ours that have arrived together.
Take = Callable[[list[tuple[Received, wire.Message]]], None]
TakeRaw = Callable[[np.ndarray], None]


def _nothing(*_: object) -> None:
    pass


def four_bits(elements: int) -> codecs.Codec:
    """The default codec: 4 bits an element, a scale in 512."""
    config = codecs.CodecConfig(codec="qsgd", bits=4)
    return codecs.build(config, codecs.Layout(("x",), ((elements,),)), threads=1)


class RawPath:
    """Isend and Irecv, a request a message. What the reference does is all that it does."""

    def __init__(
        self, comm: MPI.Intracomm, peer: int, content: np.ndarray, window: int, *, take: TakeRaw = _nothing
    ):
        """peer: a rank, or MPI.ANY_SOURCE for an end that only receives. content: (size,) uint8, what is sent.
        take: what is done with a payload that has arrived."""
        self.comm, self.peer, self.window, self.take = comm, peer, window, take
        self.out = [] if peer == MPI.ANY_SOURCE else [_copy(content) for _ in range(window)]
        self.into = [aligned_bytes(content.size) for _ in range(window)]
        self.last = self.into[0]

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
            self.last = self.into[slot]
            self.take(self.last)
            if i + self.window < count:
                requests[slot] = self.comm.Irecv([self.into[slot], MPI.BYTE], self.peer, TAG_RAW)

    def close(self) -> None:
        """Nothing is kept posted."""


class OurPath:
    """What the drivers do with a message, without encoding, decoding and the trace's row.

    On a communicator of its own: receives that it keeps posted are not searched for another path's messages.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        peer: int,
        content: np.ndarray,
        window: int,
        *,
        crowded: bool = False,
        described: wire.Expected | None = None,
        checksum: str = "full",
        take: Take = _nothing,
        note: Take | None = None,
        fill: Callable[[np.ndarray], object] | None = None,
    ):
        """described: what the headers say of the content; by default its size alone. checksum: of CHECKSUMS. note:
        what is done with messages once their slots are free again. fill: writes each payload before it is sent, in
        place of the content. Else see RawPath."""
        self.peer, self.size = peer, content.size
        self.take, self.note, self.fill = take, note, fill
        kinds = {wire.Kind.UPDATE: described or wire.Expected(payload_bytes=self.size)}
        self.described = wire.without_payload_checksum(kinds) if checksum == "header" else kinds
        self.pool = FramePool(self.size, limit=0 if peer == MPI.ANY_SOURCE else window)
        self.comm = comm.Dup()
        self.sends = Sends(self.comm, TAG_OURS, None if peer == MPI.ANY_SOURCE else peer)
        self.inbox = Inbox(self.comm, TAG_OURS, payload_bytes=self.size, slots=window, source=peer)
        self.backoff = Backoff(crowded=crowded)
        self.sent = 0
        self.last = np.zeros(0, dtype=np.uint8)
        for frame in [self._new_frame() for _ in range(self.pool.limit or 0)]:
            frame.payload[:] = content
            self.pool.release(frame)

    def _new_frame(self) -> Frame:
        frame = self.pool.acquire()
        assert frame is not None, "as many as the pool's limit"
        return frame

    def send(self, count: int) -> None:
        """Post `count` messages; waits only for buffers."""
        for _ in range(count):
            while (frame := self.pool.acquire()) is None:
                self.progress()
            if self.fill is not None:
                self.fill(frame.payload)
            frame.seal(
                wire.Kind.UPDATE,
                expected=self.described[wire.Kind.UPDATE],
                payload_bytes=self.size,
                sequence=self.sent,
            )
            self.sent += 1
            self.sends.post(frame, self.peer)

    def flush(self) -> None:
        """Wait until all that was posted has been taken."""
        while len(self.sends):
            self.progress()

    def progress(self) -> None:
        if not self._completed():
            self.backoff.pause()

    def _completed(self) -> bool:
        """Frames whose messages have been taken are free again. Whether there were any."""
        done = self.sends.poll()
        for sent in done:
            self.pool.release(sent.frame)
        if done:
            self.backoff.reset()
        return bool(done)

    def receive(self, count: int) -> None:
        while count:
            if arrived := self.inbox.poll():
                checked = []
                for received in arrived:
                    checked.append(
                        (received, wire.check(received.data, self.described, rank=received.source))
                    )
                self.take(checked)
                for received in arrived:
                    self.inbox.release(received.slot)
                    count -= 1
                if self.note is not None:
                    self.inbox.nudge()
                    self.note(checked)
                self.last = received.payload
                self.backoff.reset()
            else:  # sends are completed while nothing arrives, as in the drivers' loops
                self.progress()

    def close(self) -> None:
        self.flush()
        self.sends.close()
        self.inbox.close()
        self.comm.Free()


Path = RawPath | OurPath


def _copy(content: np.ndarray) -> np.ndarray:
    buffer = aligned_bytes(content.size)
    buffer[:] = content
    return buffer


def exchange(path: Path, sends_first: bool, rounds: int = 3) -> Iterator[np.ndarray]:
    """A few messages each way: what arrived. A WireError says more than a count, and ends the job."""
    for _ in range(rounds):
        if sends_first:
            path.send(1)
            path.receive(1)
        else:
            path.receive(1)
            path.send(1)
        yield path.last
