"""Rank 0's books of a wall run: who has sent what, and who still owes something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from qafel_mpi.transport.backoff import some_ranks


class Senders:
    """The clients' ranks, by what has come from them. Each call takes the same time, however many there are.

    taken: messages by rank, but for goodbyes: updates, as far as one can know. announced: the updates that a rank
    says it has sent, from its goodbye. owing: ranks that may send something yet.
    """

    def __init__(self, ranks: Iterable[int]):
        self.taken = dict.fromkeys(ranks, 0)
        self.announced: dict[int, int] = {}
        self.owing = set(self.taken)

    def took(self, rank: int) -> None:
        """A message that is no goodbye."""
        self.taken[rank] += 1
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


class Round:
    """A synchronous round as rank 0 sees it: whether every rank has reported as often as the round asks of it.

    A report is an update that the round uses, or one that was refused: then nobody else will come in its place.
    """

    def __init__(self, quotas: Mapping[int, int]):
        """quotas: the clients that each rank plays in a round."""
        self._quotas, self._asked = quotas, sum(quotas.values())
        self._reports: Counter[int] = Counter()
        self._reported = 0
        self.refused = 0

    def begin(self) -> None:
        """The server has made a step: the next round."""
        self._reports.clear()
        self._reported = self.refused = 0

    def report(self, rank: int, *, refused: bool = False) -> None:
        """An update of this round, or something refused, which may be more than the round asks of the rank."""
        self.refused += refused
        self._reports[rank] += 1
        self._reported += self._reports[rank] <= self._quotas[rank]

    @property
    def over(self) -> bool:
        """Every rank has reported."""
        return self._reported >= self._asked
