"""Inbox: preposted receives, and the messages that have arrived in them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from mpi4py import MPI

from qafel_mpi import wire
from qafel_mpi.transport import large, mortal
from qafel_mpi.transport.frames import new_frame


@dataclass(slots=True, eq=False)
class Received:
    """A message that has arrived, unverified. data (all its bytes) and payload are the inbox's until `release`.

    number: of the receive that it matched, in the order posted, from 1.
    """

    slot: int
    data: memoryview
    payload: np.ndarray
    source: int
    t_post: float
    t_complete: float
    number: int = 0

    @property
    def wire_bytes(self) -> int:
        return len(self.data)


class Slot:
    """One preposted receive of an inbox: the frame that it fills, and its persistent request."""

    __slots__ = ("frame", "index", "number", "posted_s", "request")

    def __init__(self, comm: MPI.Intracomm, index: int, source: int, tag: int, payload_bytes: int):
        self.index, self.frame = index, new_frame(payload_bytes)
        self.request = comm.Recv_init(large.spec(self.frame.buffer, self.frame.buffer.size), source, tag)
        self.posted_s, self.number = 0.0, 0


class Inbox:
    """Preposted persistent receives. From one source messages come out in the order sent, else as they come.

    slots × frame bytes is all the memory it takes, whatever the number of senders: a sender that finds no
    slot waits at its own end.
    """

    def __init__(self, comm: MPI.Intracomm, tag: int, *, payload_bytes: int, slots: int, source: int):
        self._slots = [Slot(comm, k, source, tag, payload_bytes) for k in range(slots)]
        self.frames = [slot.frame for slot in self._slots]
        self._requests = [slot.request for slot in self._slots]
        self._ordered = source != MPI.ANY_SOURCE
        self._posted: deque[Slot] = deque()  # in the order posted, in which messages match them
        self._early: list[Received] = []  # seen by a nudge, and next for a poll
        self._mortal = mortal.survives() and not self._ordered
        self._status = MPI.Status()
        self._statuses = [MPI.Status() for _ in range(slots)]
        self.total = self._posts = 0
        for index in range(slots):
            self.release(index)

    def release(self, index: int) -> None:
        """Post the slot again: its bytes are not needed any more."""
        slot = self._slots[index]
        slot.posted_s = perf_counter()
        slot.number = self._posts = self._posts + 1
        self._posted.append(slot)
        slot.request.Start()

    def poll(self) -> list[Received]:
        """Messages that have arrived. Each slot must be released before it can receive again."""
        posted, status = self._posted, self._status
        arrived, self._early = self._early, []
        # Testing the slot that matches first takes a fifth of Testsome's time.
        while posted and self._is_done(posted[0], status):
            arrived.append(self._received(posted.popleft(), status))
            if self._ordered:  # from one sender the next is seldom there already, and a Test is not free
                break
        if arrived or self._ordered or not posted:
            # A small message may complete before a large one ahead of it: it waits its turn.
            return arrived
        statuses = self._statuses
        if self._mortal:
            slots = [slot for slot in [*posted] if self._is_done(slot, statuses[slot.index])]
            statuses = [statuses[slot.index] for slot in slots]
        else:
            slots = [self._slots[i] for i in MPI.Request.Testsome(self._requests, statuses) or ()]
        for slot in slots:
            posted.remove(slot)
        return [self._received(slot, status) for slot, status in zip(slots, statuses, strict=False)]

    def _is_done(self, slot: Slot, status: MPI.Status) -> bool:
        """Whether a message has come. One that has come in part from a rank that then died is none."""
        if self._mortal:
            status.Set_source(-1)  # of the message before, should the Test not write it
        try:
            if not slot.request.Test(status):
                return False
            if not self._mortal or status.Get_source() >= 0:
                return True
        except MPI.Exception as error:
            if self._ordered or not mortal.is_death(error):
                raise
            if mortal.is_pending(error) and (come := mortal.has_come(slot.request, status)) is not None:
                return come
        # It failed, or is not active any more since it failed: whatever was coming, its sender is dead.
        self._posted.remove(slot)
        self.release(slot.index)
        return False

    def all_before(self, number: int) -> bool:
        """Whether all messages have come that were matched before that of receive `number`.

        Messages match receives in the order posted. So once this holds for the last message that a rank has sent,
        nothing of that rank is left: what it sent before was matched before.
        """
        posted = self._posted[0].number if self._posted else number
        return min((received.number for received in self._early), default=number) >= number <= posted

    def nudge(self) -> None:
        """Let MPI answer the senders that wait for a slot: their bytes come while this rank does something else.

        Nothing is matched, and of a larger message nothing sent, unless the receiver calls MPI.
        """
        if self._posted and self._is_done(self._posted[0], self._status):
            self._early.append(self._received(self._posted.popleft(), self._status))

    def _received(self, slot: Slot, status: MPI.Status) -> Received:
        self.total += 1
        data, payload = slot.frame.data, slot.frame.payload
        size = large.received(status, len(data))
        if size != len(data):
            data, payload = data[:size], payload[: max(0, size - wire.HEADER_BYTES)]
        return Received(
            slot.index, data, payload, status.Get_source(), slot.posted_s, perf_counter(), slot.number
        )

    def close(self) -> None:
        """Cancel the receives that are still posted, and free the requests."""
        for slot in self._posted:
            slot.request.Cancel()
            mortal.finish(slot.request)
        for request in self._requests:
            request.Free()
