"""Which fault comes when, to which rank: a function of the seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

KINDS = {
    "kill": "SIGKILL to a client rank, and the run goes on without it",
    "stop": "a client rank is stopped for some seconds (SIGSTOP, SIGCONT)",
    "slow": "a client rank has half of its time, for some seconds",
    "cut": "SIGKILL to the whole job, which goes on from its last checkpoint with all ranks",
}
LONGEST_SECONDS = 10.0  # of a stop or a slow time; and half of the time between two faults
SHORTEST_SECONDS = 1.0


class Fault(NamedTuple):
    """at_s: since the clients began to train. rank: 0 for the whole job. seconds: that it lasts; 0: it is final."""

    at_s: float
    kind: str
    rank: int
    seconds: float


def schedule(kinds: Sequence[str], *, seed: int, ranks: int, seconds: float, every_s: float) -> list[Fault]:
    """One fault every so many seconds, the last one so long before the end; kinds take turns in a random order.

    At least half of the client ranks live: a kill that is too much is a cut, which brings all back, where cuts are
    among the kinds; else there is no fault.
    """
    draw, turns = Random(seed), _turns(kinds, Random(f"{seed}: kinds"))
    clients = list(range(1, ranks))
    living, faults = list(clients), []
    for number in range(1, int(seconds / every_s)):
        kind, lasts = next(turns), 0.0
        if kind == "kill" and 2 * (len(living) - 1) < len(clients):
            if "cut" not in kinds:
                continue
            kind = "cut"
        if kind == "cut":
            rank, living = 0, list(clients)
        else:
            rank = draw.choice(living)
        if kind == "kill":
            living.remove(rank)
        elif kind != "cut":
            longest = max(SHORTEST_SECONDS, min(LONGEST_SECONDS, every_s / 2))
            lasts = draw.uniform(SHORTEST_SECONDS, longest)
        faults.append(Fault(number * every_s, kind, rank, lasts))
    return faults


def _turns(kinds: Sequence[str], draw: Random) -> Iterator[str]:
    while True:
        yield from draw.sample(list(kinds), len(kinds))
