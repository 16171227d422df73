"""How much each worker still has to do, and at once which one has the least."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping

GONE = 1 << 62  # in a worker's place once it is left out: more than any other has


class Outstanding(MutableMapping[int, int]):
    """Trainings by rank, none at first. A change takes log₂(ranks) steps, `least` one.

    Of two neighbours the one with less to do goes on, and so up to the first place: a tournament. A node is
    trainings · _width + rank, so that the lowest rank wins ties. ranks: ascending, those that are left.

    >>> workers = Outstanding([1, 2, 3])
    >>> workers[1] += 4
    >>> workers.least, [*workers.values()]
    (2, [4, 0, 0])
    """

    def __init__(self, ranks: Iterable[int]):
        self.ranks = sorted(ranks)
        self._place = {rank: len(self.ranks) + n for n, rank in enumerate(self.ranks)}
        self._width = max(self.ranks, default=0) + 1
        self._nodes = [GONE] * (
            2 * len(self.ranks)
        )  # those of the ranks are the second half; the first is unused
        for rank in self.ranks:
            self[rank] = 0

    @property
    def least(self) -> int:
        """The rank with the least to do, of these the lowest."""
        return self._nodes[1] % self._width

    def __getitem__(self, rank: int) -> int:
        return self._nodes[self._place[rank]] // self._width

    def __setitem__(self, rank: int, trainings: int) -> None:
        self._put(self._place[rank], trainings * self._width + rank)

    def __delitem__(self, rank: int) -> None:
        self._put(self._place.pop(rank), GONE)
        self.ranks.remove(rank)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ranks)

    def __len__(self) -> int:
        return len(self.ranks)

    def _put(self, place: int, node: int) -> None:
        nodes = self._nodes
        nodes[place] = node
        while place > 1:
            node = min(node, nodes[place ^ 1])
            place //= 2
            nodes[place] = node
