"""Broadcast of q^t by fan-out: one encoded frame serves the sends to every client, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from mpi4py import MPI

from qafel_mpi import wire
from qafel_mpi.transport.backoff import some_ranks
from qafel_mpi.transport.frames import Frame, FramePool, Sends, Sent, new_frame
from qafel_mpi.transport.inbox import Inbox, Received

POOLED = (wire.Kind.BROADCAST, wire.Kind.DOWNLOAD, wire.Kind.MODEL)  # whose frames are used again
MODELS = 4  # full states that rank 0 holds for all ranks that fell behind


class FanOut:
    """Every rank gets every version, or something that makes up for what it missed; memory stays bounded.

    A rank has at most `queue_limit` unmatched sends; past it, versions wait in a log that all ranks share.
    The log is as long as the missed payloads stay cheaper than the full state (`log_length` frames). A rank
    that falls out of it first takes what is under way to it, and then gets one catch-up with the newest hidden
    state; it waits where MODELS of these are under way already, which ranks that want the same version share.
    Where a payload carries the model itself (log_length 1, no catch_up), the newest frame is that catch-up.
    Rank 0 so holds at most MODELS full states and log_length + queue_limit · (ranks that lag) payloads.

    catch_up: fills and seals a frame with the newest hidden state, of model_bytes of payload at most.
    spares: ranks that get nothing until they `join`, or until the end.
    """

    knows_readers = True  # each is sent to by itself

    def __init__(
        self,
        sends: Sends,
        pool: FramePool,
        ranks: Iterable[int],
        *,
        queue_limit: int,
        log_length: int,
        catch_up: Callable[[Frame], Frame] | None,
        model_bytes: int = 0,
        spares: Iterable[int] = (),
    ):
        self.sends, self.pool = sends, pool
        self.models = FramePool(model_bytes, limit=MODELS)
        self.queue_limit = queue_limit
        self.catch_up = catch_up
        self.log: deque[Frame] = deque()
        self.log_length = log_length
        self.begun = 0  # the version that all ranks begin with
        self.version = 0  # frames published: the versions begun .. version-1
        self.next = dict.fromkeys(ranks, 0)  # the version that a rank needs next
        self.behind: set[int] = set()
        self.spares = set(spares)
        self.skipped = 0  # versions that a rank never got as such, summed over ranks
        self.link_bytes = 0  # payload, of all sends that completed
        self.astray: dict[int, int] = {}  # ranks that get a full state out of turn, and its version; −1: soon
        self._model: Frame | None = None  # the newest catch-up, of `_model_version`
        self._model_version = -1
        self._ending = False

    def begin_at(self, version: int) -> None:
        """Of a run that is resumed: every rank holds this version, also a spare one."""
        self.begun = self.version = version
        self.next = dict.fromkeys(self.next, version)

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
            dropped = self.log.popleft()
            dropped.references -= 1
            if not dropped.references:
                self.pool.release(dropped)
        self.behind.update(self.next)
        self._pump(self.next)

    def poll(self) -> list[Sent]:
        """Progress: returns the sends that completed, and posts what waited for them."""
        done = self.sends.poll()
        model_is_free = False
        for sent in done:
            self.link_bytes += sent.message.payload_bytes
            if sent.last and sent.message.kind in POOLED:
                model_is_free |= sent.message.kind == wire.Kind.MODEL
                self._pool_of(sent.message.kind).release(sent.frame)
        if self.sends.lost:
            model_is_free |= self._recover()
        if (done or model_is_free) and self.behind:
            # A rank that waits has something under way, or waits for a frame of a full state.
            self._pump(list(self.behind) if model_is_free else {sent.rank for sent in done} & self.behind)
        return done

    def _recover(self) -> bool:
        """Frames that were under way to ranks that have died. Returns whether one of a full state is free."""
        kinds, lost, self.sends.lost = set(), self.sends.lost, []
        for frame, message in lost:
            if message.kind in POOLED:
                kinds.add(message.kind)
                self._pool_of(message.kind).release(frame)
        return wire.Kind.MODEL in kinds

    def leave(self, rank: int) -> None:
        """A rank has died: nothing is sent to it any more."""
        self.next.pop(rank, None)
        self.astray.pop(rank, None)
        self.behind.discard(rank)
        self.spares.discard(rank)

    def join(self, rank: int) -> str:
        """A spare rank gets every version from now on, and before that the cheaper of missed payloads and full state.

        Returns which of the two, in words.
        """
        missed, kept = self.version - self.begun, len(self.log)
        self.spares.discard(rank)
        self.next[rank] = self.begun
        self.behind.add(rank)
        self._pump([rank])
        if missed <= kept:
            return f"{missed} missed payloads"
        return "the newest payload, which is the model" if self.catch_up is None else "the full state"

    def resynchronise(self, rank: int) -> None:
        """A rank holds another hidden state: behind what is under way to it, it gets the newest one in full.

        Where a payload carries the model itself, the next one is that.
        """
        self.astray[rank] = self.version if self.catch_up is None else -1
        if self.catch_up is not None:
            self.behind.add(rank)
            self._pump([rank])

    def mends(self, rank: int, version: int) -> bool:
        """Whether what a rank held of this version is of no account: it was sent, or will be sent, a full state."""
        at = self.astray.get(rank, 0)
        return at < 0 or version < at

    def end(self, version: int) -> None:
        """Post at once what ranks still lack, which they share, and the STOP behind it."""
        self._ending, self.models.limit = True, None
        for rank in sorted(self.spares):  # all ranks end with the same x̂
            self.join(rank)
        self._pump(list(self.behind))
        stop = new_frame(0).seal(wire.Kind.STOP, version=version)
        for rank in self.next:
            self.sends.post(stop, rank)

    @property
    def ready(self) -> bool:
        """Another frame may be published: always, for what a queue has no room for waits in the log."""
        return True

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is under way."""
        return not self.behind and not len(self.sends)

    @property
    def total(self) -> int:
        """Messages sent."""
        return self.sends.total

    def waits(self) -> str:
        """Who has not taken its messages yet, in words."""
        return f"{some_ranks(self.sends.late())} to take broadcasts"

    def unread(self, rank: int) -> object:
        """Changes when the rank takes a message; None where it has none to take."""
        under_way = self.sends.under_way(rank)
        return (self.next.get(rank), under_way) if under_way else None

    def close(self) -> None:
        """Nothing is kept posted."""

    def _pump(self, ranks: Iterable[int]) -> None:
        """Post to each of these ranks what there is room for."""
        for rank in ranks:
            while self._lacks(rank) and self._post_next(rank):
                pass
            if not self._lacks(rank):
                self.behind.discard(rank)

    def _lacks(self, rank: int) -> bool:
        return self.next[rank] < self.version or self.astray.get(rank, 0) < 0

    def _post_next(self, rank: int) -> bool:
        """Whether there was room for it."""
        first, wanted, under_way = self.version - len(self.log), self.next[rank], self.sends.under_way(rank)
        astray = self.astray.get(rank, 0) < 0
        if wanted >= first and not astray:
            if under_way >= self.queue_limit and not self._ending:
                return False
            self.sends.post(self.log[wanted - first], rank)
            self.next[rank] = wanted + 1
            return True
        # Behind what the rank takes slowly a catch-up would be old when its turn comes, and one of several.
        if under_way and not self._ending and not astray:
            return False
        if (newest := self.log[-1] if self.catch_up is None else self._current_model(self.catch_up)) is None:
            return False
        got = self.catch_up is None  # the newest payload itself
        self.skipped += self.version - wanted - got
        self.sends.post(newest, rank)
        self.next[rank] = self.version
        if astray:
            self.astray[rank] = self.version
        return True

    def _current_model(self, catch_up: Callable[[Frame], Frame]) -> Frame | None:
        """The newest hidden state, encoded once for all that want it; None where no frame is free."""
        under_way = self._model is not None and self._model.references
        if not under_way or self._model_version != self.version:
            frame = self.models.acquire()
            if frame is None:
                return None
            self._model, self._model_version = catch_up(frame), self.version
        return self._model

    def _pool_of(self, kind: int) -> FramePool:
        return self.models if kind == wire.Kind.MODEL else self.pool


class Direct(Inbox):
    """A client's end: all comes from rank 0, and nothing is passed on."""

    stop = wire.Expected()
    passed_total = 0
    idle = True
    late: tuple[int, ...] = ()

    def __init__(self, comm: MPI.Intracomm, tag: int, *, payload_bytes: int, slots: int):
        super().__init__(comm, tag, payload_bytes=payload_bytes, slots=slots, source=0)

    def pass_on(self, received: Received, message: wire.Message) -> None:
        """Nobody is below."""

    def passed(self) -> list[Sent]:
        return []

    def waits(self) -> str:
        return "nobody"
