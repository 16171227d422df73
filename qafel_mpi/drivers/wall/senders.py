"""Rank 0's books of a wall run: who has sent what, and who still owes something."""

from __future__ import annotations

from collections.abc import Iterable

from qafel_mpi.transport.backoff import some_ranks


class Senders:
    """The clients' ranks, by what has come from them. Each call takes the same time, however many there are.

    taken: messages by rank, but for goodbyes: updates, as far as one can know. announced: the updates that a rank
    says it has sent, from its goodbye. owing: ranks that may send something yet. refused: ranks whose last update
    was, since the last step.
    """

    def __init__(self, ranks: Iterable[int]):
        self.taken = dict.fromkeys(ranks, 0)
        self.announced: dict[int, int] = {}
        self.owing = set(self.taken)
        self.refused: set[int] = set()

    def took(self, rank: int, *, refused: bool = False) -> None:
        """A message that is no goodbye."""
        self.taken[rank] += 1
        if refused:
            self.refused.add(rank)
        else:
            self.refused.discard(rank)
        if rank in self.announced:
            self._settle(rank)

    def said_goodbye(self, rank: int, updates: int) -> None:
        self.announced[rank] = updates
        self._settle(rank)

    def waits(self) -> str:
        """Who owes what, in words; empty where nobody does."""
        if silent := self.owing - self.announced.keys():
            return f"the last messages of {some_ranks(silent)}"
        return f"updates that {some_ranks(self.owing)} announced" if self.owing else ""

    def _settle(self, rank: int) -> None:
        # More than announced: something that no client sent as an update was refused.
        if self.taken[rank] >= self.announced[rank]:
            self.owing.discard(rank)
