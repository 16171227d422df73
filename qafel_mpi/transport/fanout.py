"""Broadcast of q^t by fan-out: one encoded frame serves the sends to every client, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from mpi4py import MPI

from qafel_mpi import wire
from qafel_mpi.transport.frames import Frame, FramePool, Inbox, Received, Sends, Sent, new_frame


class FanOut:
    """Every rank gets every version, or something that makes up for what it missed; memory stays bounded.

    A rank has at most `queue_limit` unmatched sends; past it, versions wait in a log that all ranks share.
    The log is as long as the missed payloads stay cheaper than the full state (`log_length` frames); a rank
    that falls out of it gets `catch_up()`, one frame with the newest hidden state, instead. Where a payload
    carries the model itself (log_length 1), the newest frame is that catch-up and older ones are skipped.
    Rank 0 so holds at most log_length + queue_limit · (ranks that lag) frames.
    """

    def __init__(
        self,
        sends: Sends,
        pool: FramePool,
        ranks: Iterable[int],
        *,
        queue_limit: int,
        log_length: int,
        catch_up: Callable[[], Frame] | None,
    ):
        self.sends, self.pool = sends, pool
        self.queue_limit = queue_limit
        self.catch_up = catch_up
        self.log: deque[Frame] = deque()
        self.log_length = log_length
        self.version = 0  # frames published: the versions 0 .. version-1
        self.next = dict.fromkeys(ranks, 0)  # the version that a rank needs next
        self.behind: set[int] = set()
        self.skipped = 0  # versions that a rank never got as such
        self.link_bytes = 0  # payload, of all sends that completed
        self._model: Frame | None = None  # the catch-up frame of `_model_version`
        self._model_version = -1

    def frame(self) -> Frame:
        """A buffer for the next payload."""
        frame = self.pool.acquire()
        assert frame is not None, "the broadcast pool has no limit"
        return frame

    def publish(self, frame: Frame) -> None:
        """Send a sealed frame, version t = self.version, to every rank, now or when its queue allows."""
        self.log.append(frame)
        frame.references += 1  # the log's own
        self.version += 1
        if len(self.log) > self.log_length:
            self._drop(self.log.popleft())
        self.behind.update(self.next)
        self.pump()

    def poll(self) -> list[Sent]:
        """Progress: returns the sends that completed, and posts what waited for them."""
        done = self.sends.poll()
        for sent in done:
            self.link_bytes += sent.message.payload_bytes
            if sent.last:
                self._recycle(sent.frame)
        if done and self.behind:
            self.pump()
        return done

    def pump(self) -> None:
        """Post to each rank that lags what its queue has room for."""
        for rank in list(self.behind):
            while self.next[rank] < self.version:
                if self.sends.under_way.get(rank, 0) >= self.queue_limit:
                    break
                self._post_next(rank)
            else:
                self.behind.discard(rank)

    def end(self, version: int) -> None:
        """Send the STOP; to be called once all is posted, so that it is behind the last broadcast."""
        stop = new_frame(0).seal(wire.Kind.STOP, version=version)
        for rank in self.next:
            self.sends.post(stop, rank)

    @property
    def ready(self) -> bool:
        """Another frame may be published: always, for what a queue has no room for waits in the log."""
        return True

    @property
    def posted(self) -> bool:
        """No rank waits for a post."""
        return not self.behind

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is under way."""
        return self.posted and not len(self.sends)

    @property
    def total(self) -> int:
        """Messages sent."""
        return self.sends.total

    def waits(self) -> str:
        """Who has not taken its messages yet, in words."""
        late = sorted(rank for rank, n in self.sends.under_way.items() if n)
        return f"ranks {late[:8]} to take broadcasts"

    def close(self) -> None:
        """Nothing is kept posted."""

    def _post_next(self, rank: int) -> None:
        first = self.version - len(self.log)
        wanted = self.next[rank]
        if wanted >= first:
            self.sends.post(self.log[wanted - first], rank)
            self.next[rank] = wanted + 1
            return
        self.skipped += self.version - wanted
        self.sends.post(self.log[-1] if self.catch_up is None else self._current_model(), rank)
        self.next[rank] = self.version

    def _current_model(self) -> Frame:
        if self._model is None or self._model_version != self.version:
            assert self.catch_up is not None
            if self._model is not None:
                self._model.references -= 1
            self._model = self.catch_up()
            self._model.references += 1
            self._model_version = self.version
        return self._model

    def _drop(self, frame: Frame) -> None:
        frame.references -= 1
        if frame.references == 0:
            self._recycle(frame)

    def _recycle(self, frame: Frame) -> None:
        if frame.payload.size == self.pool.payload_bytes:
            self.pool.release(frame)


class Direct(Inbox):
    """A client's end: all comes from rank 0, and nothing is passed on."""

    stop = wire.Expected()
    passed_total = 0
    idle = True

    def __init__(self, comm: MPI.Intracomm, tag: int, *, payload_bytes: int, slots: int):
        super().__init__(comm, tag, payload_bytes=payload_bytes, slots=slots, source=0)

    def pass_on(self, received: Received, message: wire.Message) -> None:
        """Nobody is below."""

    def passed(self) -> list[Sent]:
        return []

    def waits(self) -> str:
        return "nobody"
