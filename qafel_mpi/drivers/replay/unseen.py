"""Trainings whose update the server was never handed, and that a later one depends on: with error feedback.

A message that failed the check left its client's residual as any other upload did. The row of /updates doesn't say
whose it was; the sender's own row of /messages does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from qafel_mpi.trace_schema import KIND_NUMBERS


class Training(NamedTuple):
    """A client's, and the rank that did it."""

    client: int
    participation: int
    start_version: int
    rank: int


def missing(rows: np.ndarray) -> set[tuple[int, int]]:
    """(client, participation) of trainings before a client's last one among these rows of /updates, not among them.

    >>> rows = np.array([(4, 0), (4, 3), (5, 0)], dtype=[("client", "i8"), ("participation", "i8")])
    >>> sorted(missing(rows))
    [(4, 1), (4, 2)]
    """
    there = set(zip(rows["client"].tolist(), rows["participation"].tolist(), strict=True))
    last: dict[int, int] = {}
    for client, participation in there:
        last[client] = max(participation, last.get(client, 0))
    return {(client, n) for client, end in last.items() for n in range(end)} - there


def moved(rows: np.ndarray, resumed_at: Iterable[int] = ()) -> int | None:
    """A client that two ranks played, for one had died: what the first kept of it was lost.

    resumed_at: where the run went on from a checkpoint, which has what clients keep for any ranks.

    >>> rows = np.array([(4, 1), (5, 2), (5, 2), (4, 2)], dtype=[("client", "i8"), ("rank", "i4")])
    >>> moved(rows), moved(rows, resumed_at=[2])
    (4, None)
    """
    for start in np.split(rows, sorted(at for at in resumed_at if 0 <= at <= len(rows))):
        ranks: dict[int, int] = {}
        for client, rank in zip(start["client"].tolist(), start["rank"].tolist(), strict=True):
            if ranks.setdefault(client, rank) != rank:
                return int(client)
    return None


def sent(messages: Iterable[np.ndarray], wanted: set[tuple[int, int]]) -> tuple[Training, ...]:
    """Those of `wanted` that a rank has sent, from blocks of /messages."""
    found = []
    for block in messages:
        rows = block[(block["end"] == 0) & (block["kind"] == KIND_NUMBERS["update"])]
        columns = (rows[name].tolist() for name in ("client", "sequence", "version", "src"))
        found += [one for one in map(Training, *columns) if (one.client, one.participation) in wanted]
    return tuple(sorted(set(found)))
