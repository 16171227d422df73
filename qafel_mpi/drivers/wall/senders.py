"""Rank 0's books of a wall run: who has sent what, and who still owes something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from qafel_mpi.algorithms.server import Server
from qafel_mpi.transport.backoff import some_ranks
from qafel_mpi.wire import Kind, Message, WireError

LAST = 2**63 - 2  # of a count that a trace holds, with the one behind it


class Senders:
    """The clients' ranks, by what has come from them.

    A goodbye is the last message of a rank. What the rank has sent before may come after it, for a small message may
    overtake a large one; but it was matched before. So the receive that a goodbye matched says when all has come, and
    a goodbye whose bytes are damaged says it as well.

    taken: messages by rank, but for goodbyes: updates, as far as one can know. announced: the updates that a rank
    says it has sent, from its goodbye. owing: ranks that may send something yet. gone: ranks that have died. spare:
    ranks that host no clients yet.
    """

    def __init__(self, ranks: Iterable[int], spare: Iterable[int] = ()):
        self.spare = set(spare)
        self.taken = dict.fromkeys(ranks, 0)
        self.announced: dict[int, int] = {}
        self.owing = set(self.taken)
        self.gone: set[int] = set()
        self._leaving: dict[int, int] = {}  # ranks that have said goodbye, and the receive that it matched

    def took(self, rank: int) -> None:
        """A message that is no goodbye."""
        self.taken[rank] += 1

    def said_goodbye(self, rank: int, receive: int, updates: int | None) -> None:
        """receive: the number of the one that the goodbye matched. updates: None where its bytes are damaged."""
        self._leaving[rank] = receive
        if updates is not None:
            self.announced[rank] = updates

    def leave(self, rank: int) -> None:
        """A rank has died: nothing more of it is used."""
        self.gone.add(rank)
        self.spare.discard(rank)
        self.owing.discard(rank)
        self._leaving.pop(rank, None)
        self.announced.pop(rank, None)

    @property
    def living(self) -> list[int]:
        return [rank for rank in self.taken if rank not in self.gone]

    @property
    def active(self) -> list[int]:
        """The living that host clients."""
        return [rank for rank in self.living if rank not in self.spare]

    def settle(self, all_before: Callable[[int], bool]) -> None:
        """all_before: whether all has come that was matched before this receive (Inbox.all_before)."""
        for rank in [rank for rank, receive in self._leaving.items() if all_before(receive)]:
            del self._leaving[rank]
            self.owing.discard(rank)

    def lost(self) -> dict[int, int]:
        """By rank, the updates that it says it has sent and that never came."""
        return {rank: n - self.taken[rank] for rank, n in self.announced.items() if n > self.taken[rank]}

    def waits(self) -> str:
        """Who owes what, in words; empty where nobody does."""
        if silent := self.owing - self._leaving.keys():
            return f"the last messages of {some_ranks(silent)}"
        return f"updates that {some_ranks(self.owing)} sent before the goodbye" if self.owing else ""


class Claims:
    """What a message whose bytes are sound says of itself: what can't be makes it a bad message, like any other."""

    def __init__(self, server: Server, clients: int):
        self._server, self._clients = server, clients
        self._key = server.shared_key if server.uplink.shared else None

    def check(self, message: Message, rank: int) -> None:
        """Raises WireError that names the first field that can't be."""
        if message.client >= self._clients:
            self._refuse(message, rank, "client", f"{message.client}, this run has {self._clients}")
        if message.version > self._server.version:
            self._refuse(message, rank, "version", f"{message.version}, rank 0 is at {self._server.version}")
        if message.sequence > LAST:
            self._refuse(message, rank, "sequence", f"{message.sequence}, a trace holds {LAST} at most")
        if self._key is not None and message.kind == Kind.UPDATE and message.seed != self._key:
            self._refuse(message, rank, "seed", f"{message.seed:#x}, this run's uploads share {self._key:#x}")

    def _refuse(self, message: Message, rank: int, field: str, detail: str) -> None:
        raise WireError(field, detail, rank=rank, sequence=message.sequence)


class Once:
    """Which updates have come, by client and training: none is used twice.

    A client's updates may overtake each other, so each client has the number that it has come to and those below that
    are missing. Of these the WINDOW latest are remembered, which is more than a rank ever has under way.
    """

    WINDOW = 64

    def __init__(self, played: Sequence[int]):
        """played: by client, the trainings that were taken before, all of them."""
        self._next = list(played)
        self._missing: dict[int, set[int]] = {}

    def is_new(self, client: int, participation: int) -> bool:
        """Note an update; False where it has come before."""
        due, missing = self._next[client], self._missing.get(client)
        if participation == due and missing is None:  # most of them
            self._next[client] = due + 1
            return True
        missing = missing or set()
        if participation >= due:
            missing.update(range(max(due, participation - self.WINDOW), participation))
            self._next[client] = participation + 1
        elif participation in missing:
            missing.remove(participation)
        else:
            return False
        missing = {n for n in missing if n >= self._next[client] - self.WINDOW}
        self._missing[client] = missing
        if not missing:
            del self._missing[client]
        return True


class Round:
    """A synchronous round as rank 0 sees it: whether every rank has reported as often as the round asks of it.

    A report is an update that the round uses, or one that was refused: then nobody else will come in its place.
    """

    def __init__(self, quotas: Mapping[int, int]):
        """quotas: the clients that each rank plays in a round."""
        self._quotas, self._asked = dict(quotas), sum(quotas.values())
        self._next: dict[int, int] = {}  # quotas of the next round, where they change
        self._reports: Counter[int] = Counter()
        self._reported = 0
        self.refused = 0

    def begin(self) -> None:
        """The server has made a step: the next round."""
        self._reports.clear()
        self._reported = self.refused = 0
        if self._next:
            self._quotas, self._next = self._next, {}
            self._asked = sum(self._quotas.values())

    def report(self, rank: int, *, refused: bool = False) -> None:
        """An update of this round, or something refused, which may be more than the round asks of the rank."""
        self.refused += refused
        self._reports[rank] += 1
        self._reported += self._reports[rank] <= self._quotas[rank]

    def leave(self, rank: int) -> None:
        """A rank has died: the round goes without what it had not reported, and the next ones without the rank."""
        quota = self._quotas.pop(rank)
        self._next.pop(rank, None)
        reported = min(self._reports.pop(rank, 0), quota)
        self._asked -= quota
        self._reported -= reported
        self.refused += quota - reported

    def change(self, quotas: Mapping[int, int]) -> None:
        """What the next round asks of each rank that lives."""
        self._next = dict(quotas)

    @property
    def asks(self) -> bool:
        """A rank that lives plays in this round."""
        return self._asked > 0

    @property
    def over(self) -> bool:
        """Every rank has reported."""
        return self._reported >= self._asked
