"""Who on a host gets which cores and which GPU, from what each rank was given."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import TypeVar

from qafel_mpi.transport.topology import Topology

T = TypeVar("T")


@dataclass(frozen=True)
class Gpu:
    """A GPU as this process sees it; the driver asks its framework."""

    index: int  # among those that are visible here
    uuid: str  # the same in every process
    address: str = ""  # on the PCI bus, "0000:3b:00.0"
    name: str = ""


@dataclass(frozen=True)
class Given:
    """What one rank finds when it starts; and whether it computes."""

    cores: tuple[int, ...]  # logical CPUs that the launcher lets it use
    gpus: tuple[Gpu, ...]  # those it sees: CUDA_VISIBLE_DEVICES counts
    computes: bool  # rank 0 of several serves from the host's memory

    @classmethod
    def read(cls, text: str) -> Given:
        """What `write` has written."""
        f = json.loads(text)
        return cls(tuple(f["cores"]), tuple(Gpu(**gpu) for gpu in f["gpus"]), computes=f["computes"])

    def write(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Share:
    """What it gets."""

    cores: tuple[int, ...]
    bound_by: str
    gpu: int | None = None
    gpu_ranks: int = 0  # ranks of this host that compute on that GPU


def assign(given: Sequence[Given], near: Topology) -> list[Share]:
    """What each rank of a host gets, in the order of their local ranks.

    Cores that the launcher has given to one rank alone stay its own. Those that several ranks have in common (all
    of the host's, a job's, a socket's) are divided among them, node by node; where ranks outnumber them, all use
    all. Each rank that computes takes, of the GPUs that it sees, one that the fewest others have, and of these the
    nearest to its cores: so ranks beyond the number of GPUs go round, and what a launcher left visible decides.
    """
    together: dict[tuple[int, ...], list[int]] = {}
    for rank, own in enumerate(given):
        together.setdefault(own.cores, []).append(rank)
    shares: dict[int, Share] = {}
    for cores, ranks in together.items():
        for k, rank in enumerate(ranks):
            if len(ranks) == 1 and len(given) > 1:
                shares[rank] = Share(cores, "launcher")
            elif len(ranks) > len(cores):
                shares[rank] = Share(cores, "none")
            else:
                shares[rank] = Share(share(near.near(cores), k, len(ranks), near.node_of_core), "qafel-mpi")
    taken: Counter[str] = Counter()
    chosen: dict[int, Gpu] = {}
    # Who sees the fewest GPUs has the least choice.
    for rank in sorted(range(len(given)), key=lambda rank: (len(given[rank].gpus), rank)):
        if given[rank].computes and given[rank].gpus:
            core = shares[rank].cores[0]
            chosen[rank] = min(
                given[rank].gpus, key=lambda g: (taken[g.uuid], near.distance(core, g.address), g.index)
            )
            taken[chosen[rank].uuid] += 1
    return [
        replace(shares[rank], gpu=chosen[rank].index, gpu_ranks=taken[chosen[rank].uuid])
        if rank in chosen
        else shares[rank]
        for rank in range(len(given))
    ]


def share(
    cores: Sequence[int], rank: int, ranks: int, node_of_core: Mapping[int, int] | None = None
) -> tuple[int, ...]:
    """The cores of the rank-th of `ranks` when they are divided as evenly as can be without crossing nodes.

    cores: those of a node beside each other. Where there are fewer ranks than nodes, a rank has several.

    >>> [share(range(8), r, 3) for r in range(3)]
    [(0, 1), (2, 3, 4), (5, 6, 7)]
    >>> [share(range(8), r, 3, {core: core // 4 for core in range(8)}) for r in range(3)]
    [(0, 1), (2, 3), (4, 5, 6, 7)]
    """
    nodes = [tuple(own) for _, own in groupby(cores, key=lambda core: (node_of_core or {}).get(core, 0))]
    if ranks < len(nodes):
        return tuple(core for node in _slice(nodes, rank, ranks) for core in node)
    before = 0  # cores, and from it ranks, of the nodes before
    for node in nodes:
        # Rounded to the nearest, so that no node has more ranks than cores.
        first, last = ((2 * ranks * n + len(cores)) // (2 * len(cores)) for n in (before, before + len(node)))
        if first <= rank < last:
            return tuple(_slice(node, rank - first, last - first))
        before += len(node)
    raise ValueError(f"no rank {rank} of {ranks}")


def _slice(things: Sequence[T], k: int, parts: int) -> Sequence[T]:
    return things[k * len(things) // parts : (k + 1) * len(things) // parts]
