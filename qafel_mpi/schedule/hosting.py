"""The population on the wall clock: which rank hosts which clients, and which of them it plays next.

Every rank computes the same hosting from the clients' numbers of examples, so that nothing has to be sent. What a
client keeps between its participations lives on the rank that hosts it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from heapq import heapify, heapreplace

import numpy as np

from qafel_mpi.kernels.keys import Stream, derive

REDRAWS = 100  # where different clients are asked for; then the next one of the share is taken


class Hosting:
    """Each client lives on one host. Hosts are counted from 0; host h is rank h + 1.

    Four bytes a client and eight a host, and four more a client where host_of is asked for. of(h) are the clients of
    a host, in ascending order.
    """

    def __init__(self, host_of: np.ndarray, hosts: int):
        """host_of: (clients,), the host of each."""
        self._clients = np.argsort(host_of, kind="stable").astype(np.uint32)
        self._offsets = np.concatenate([[0], np.cumsum(np.bincount(host_of, minlength=hosts))])

    @classmethod
    def one_each(cls, hosts: int, spares: int = 0) -> Hosting:
        """Every host is one client: client c is rank c + 1. spares: hosts behind these, without a client."""
        return cls(np.arange(hosts), hosts + spares)

    @classmethod
    def balanced(cls, examples: np.ndarray, hosts: int, spares: int = 0) -> Hosting:
        """Shares of about equally many examples; each host has one client at least.

        examples: (clients,), of each. spares: hosts behind these, without a client. Graham 1969: the largest client
        left goes to the host that has least, which stays within 4/3 of the best division. The first hosts win ties.
        n log(hosts) for n clients: a second for 1,000,000 clients on 10,000 hosts.
        """
        if len(examples) < hosts:
            raise ValueError(f"{len(examples)} clients for {hosts} hosts: some would have none")
        largest_first = np.argsort(-examples, kind="stable")
        host_of = np.empty(len(examples), dtype=np.uint32)
        if examples.min() == examples.max():
            host_of[largest_first] = np.arange(len(examples)) % hosts
        else:
            host_of[largest_first] = _dealt(np.maximum(examples, 1)[largest_first].tolist(), hosts)
        return cls(host_of, hosts + spares)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def of(self, host: int) -> np.ndarray:
        """The clients of a host, a view, (n,) uint32."""
        return self._clients[self._offsets[host] : self._offsets[host + 1]]

    def host_of(self, client: int) -> int:
        """The host that a client lives on."""
        return int(self._host_of[client])

    @cached_property
    def _host_of(self) -> np.ndarray:
        """(clients,) uint32, the host of each."""
        found = np.empty(len(self._clients), dtype=np.uint32)
        found[self._clients] = np.repeat(np.arange(len(self)), np.diff(self._offsets))
        return found

    def without(self, host: int, examples: np.ndarray, others: Sequence[int]) -> Hosting:
        """The same, but the clients of a host live on others: the largest goes to the one that has least, in turn.

        examples: (clients,), of each client. others: the hosts that take them, one at least.
        """
        hosts = len(self)
        host_of = self._host_of.copy()
        weights = np.maximum(examples, 1)
        loads = np.bincount(host_of, weights, minlength=hosts)
        heap = [int(loads[other]) * hosts + other for other in others]
        heapify(heap)
        moving = self.of(host)
        for client in moving[np.argsort(-weights[moving], kind="stable")].tolist():
            least = heap[0]
            host_of[client] = least % hosts
            heapreplace(heap, least + int(weights[client]) * hosts)
        return Hosting(host_of, hosts)

    def quotas(self, cohort: int) -> list[int]:
        """How many different clients each host plays in a synchronous round of `cohort` clients.

        As even as can be; a host with few clients plays these and others make up for it. One at least, where it has
        clients: where there are more such hosts than the round has room for, the first to report count.
        """
        counts = np.diff(self._offsets)
        quotas = [0] * len(counts)
        left = max(cohort, int(np.count_nonzero(counts)))
        for i, host in enumerate(np.argsort(counts, kind="stable").tolist()):
            quotas[host] = min(int(counts[host]), left // (len(counts) - i))
            left -= quotas[host]
        return quotas


def _dealt(examples: Sequence[int], hosts: int) -> list[int]:
    """The host of each client, clients given from the largest to the smallest."""
    heap = list(range(hosts))  # load · hosts + host: one number, ordered by load and then by host
    found = []
    for count in examples:
        least = heap[0]
        found.append(least % hosts)
        heapreplace(heap, least + count * hosts)
    return found


class Turns:
    """The clients that one host plays, one after the other: a function of the seed, the rank and the turn's number.

    draw: uniform; examples, in proportion to a client's examples; permutation, all clients in a random order, and
    then all in another one.
    """

    def __init__(self, clients: np.ndarray, examples: np.ndarray, *, draw: str, seed: int, rank: int):
        """clients: (n,), those of the host. examples: (n,), of each; looked at for draw = "examples" alone."""
        self.clients, self.draw, self.seed, self.rank = clients, draw, seed, rank
        self.turn = 0
        self._participations = np.zeros(len(clients), dtype=np.uint32)
        self._up_to = np.cumsum(examples) if draw == "examples" else np.zeros(0)
        self._order = np.zeros(0, dtype=np.int64)  # draw = "permutation": of this pass over the clients

    def next(self, avoid: Collection[int] = ()) -> tuple[int, int]:
        """(client, which of its participations this is, from 0).

        avoid: clients that shall not be drawn, fewer than the host has: those that play in this round already.
        """
        at = self._permuted(avoid) if self.draw == "permutation" else self._drawn(avoid)
        self.turn += 1
        participation = int(self._participations[at])
        self._participations[at] += 1
        return int(self.clients[at]), participation

    @property
    def played(self) -> dict[int, int]:
        """By client how often it has been drawn."""
        return dict(zip(self.clients.tolist(), self._participations.tolist(), strict=True))

    def go_on(self, turn: int, participations: np.ndarray) -> None:
        """Of a run that is resumed: from this turn on; a permutation begins anew.

        participations: (clients of the run,), of each so far.
        """
        clients = max(1, len(self.clients))
        self._participations[:] = participations[self.clients]
        self.turn = -(-turn // clients) * clients if self.draw == "permutation" else turn

    def adopt(self, clients: np.ndarray, participations: np.ndarray, examples: Callable[[int], int]) -> None:
        """Clients that have moved here are drawn from now on like the others; a permutation begins anew.

        participations: (n,), of each so far. examples: of a client; asked for draw = "examples" alone.
        """
        if not len(clients):
            return
        own = np.concatenate([self.clients, clients.astype(self.clients.dtype)])
        played = np.concatenate([self._participations, participations.astype(np.uint32)])
        order = np.argsort(own, kind="stable")
        self.clients, self._participations = own[order], played[order]
        if self.draw == "examples":
            self._up_to = np.cumsum([examples(client) for client in self.clients.tolist()])
        if self.draw == "permutation":
            self.turn = -(-self.turn // len(own)) * len(own)

    def _drawn(self, avoid: Collection[int]) -> int:
        key = derive(self.seed, Stream.SELECTION, self.rank, self.turn)
        at = self._picked(key)
        for attempt in range(REDRAWS):
            if int(self.clients[at]) not in avoid:
                return at
            at = self._picked(derive(key, Stream.SELECTION, self.rank, attempt))
        while int(self.clients[at]) in avoid:
            at = (at + 1) % len(self.clients)
        return at

    def _picked(self, key: int) -> int:
        """The client that a key of 64 random bits means."""
        if self.draw == "uniform":
            return key * len(self.clients) >> 64
        return int(np.searchsorted(self._up_to, key * int(self._up_to[-1]) >> 64, side="right"))

    def _permuted(self, avoid: Collection[int]) -> int:
        number, at = divmod(self.turn, len(self.clients))
        if at == 0:
            key = derive(self.seed, Stream.SELECTION, self.rank, number)
            self._order = np.random.Generator(np.random.Philox(key=key)).permutation(len(self.clients))
        # One that is to be avoided has its turn later in this pass.
        later = next(
            i for i in range(at, len(self.clients)) if int(self.clients[self._order[i]]) not in avoid
        )
        self._order[[at, later]] = self._order[[later, at]]
        return int(self._order[at])


class Cohort:
    """The different clients that one host plays in a synchronous round, all from one version."""

    def __init__(self, quota: int):
        self.quota = quota
        self._later: dict[int, int] = {}  # quotas, by the version from which on they hold
        self.clients: set[int] = set()
        self._version = -1

    def played(self, client: int, version: int) -> bool:
        """One client more; whether the host has played as many as the round asks of it."""
        if version != self._version:
            self._version = version
            self.clients.clear()
            for since in sorted(since for since in self._later if since <= version):
                self.quota = self._later.pop(since)
        self.clients.add(client)
        return len(self.clients) >= self.quota

    def change(self, quota: int, version: int) -> None:
        """The quota of the rounds from this version on; one that was told before holds until then."""
        self._later = {since: told for since, told in self._later.items() if since < version}
        self._later[version] = quota

    def begins(self, version: int) -> bool:
        """Whether the first quota that was told, and has not been played, holds by now."""
        return version >= min(self._later, default=0)

    def go_on(self, clients: set[int], version: int) -> bool:
        """Of a run that is resumed: these have played in the round of this version; whether the host is done."""
        self.clients, self._version = clients, version
        return len(clients) >= self.quota
