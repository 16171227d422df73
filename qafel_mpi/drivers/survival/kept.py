"""What clients keep from one training to the next, as an array: in checkpoints, and on the way between ranks.

It lives on the rank that trains the client: on the virtual clock its worker (messages.addressee), on the wall clock
its client rank. At a checkpoint these send it to rank 0; a resumed run gives each rank what its own clients had, for
any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
from mpi4py import MPI

from qafel_mpi.transport import mortal
from qafel_mpi.transport.backoff import some_ranks

Kept = Mapping[
    int, tuple[bytes, int]
]  # by client: what it keeps, and a number that goes with it (a key, a version)
Wait = Callable[[Callable[[], bool], Callable[[], str]], None]

TAG_KEPT = 16
PART_BYTES = 1 << 26  # of rows in one message, but a row is never divided
_HEAD = np.dtype([("client", "<i8"), ("number", "<u8")])


def rows_of(kept: Kept) -> np.ndarray:
    """(n, w) uint8: a row a client, all of one length."""
    width = len(next(iter(kept.values()))[0]) if kept else 0
    rows = np.empty((len(kept), _HEAD.itemsize + width), np.uint8)
    for row, (client, (data, number)) in zip(rows, sorted(kept.items()), strict=True):
        row[: _HEAD.itemsize] = np.array([(client, number)], _HEAD).view(np.uint8)
        row[_HEAD.itemsize :] = np.frombuffer(data, np.uint8)
    return rows


def kept_of(
    rows: np.ndarray, own: Callable[[int], bool] = lambda client: True
) -> dict[int, tuple[bytes, int]]:
    """The inverse of `rows_of`, of the clients that are one's own. Raises ValueError where it is no such array."""
    if (
        not isinstance(rows, np.ndarray)
        or rows.dtype != np.uint8
        or rows.ndim != 2
        or rows.shape[1] < _HEAD.itemsize
    ):
        raise ValueError("what clients keep is no array of rows")
    heads = [np.frombuffer(row[: _HEAD.itemsize].tobytes(), _HEAD)[0] for row in rows]
    return {
        int(head["client"]): (row[_HEAD.itemsize :].tobytes(), int(head["number"]))
        for head, row in zip(heads, rows, strict=True)
        if own(int(head["client"]))
    }


def parts(count: int, width: int) -> list[slice]:
    """So many rows of this length in parts of PART_BYTES at most, where a row is not longer."""
    step = max(1, PART_BYTES // max(1, width))
    return [slice(i, min(i + step, count)) for i in range(0, count, step)]


def gather(comm: MPI.Intracomm, ranks: Collection[int], wait: Wait) -> np.ndarray:
    """On rank 0: the rows of these ranks, each of which calls `Giving.give`; of no use where one of them dies."""
    shapes = {rank: np.zeros(2, np.int64) for rank in ranks}
    _all([comm.Irecv([shapes[r], MPI.INT64_T], r, TAG_KEPT) for r in ranks], ranks, wait)
    width = max((int(shape[1]) for shape in shapes.values() if shape[0]), default=_HEAD.itemsize)
    rows = np.empty((sum(int(shape[0]) for shape in shapes.values()), width), np.uint8)
    begin, requests = 0, []
    for rank, (count, _) in shapes.items():
        requests += [
            comm.Irecv([rows[begin:][part], MPI.BYTE], rank, TAG_KEPT) for part in parts(int(count), width)
        ]
        begin += int(count)
    _all(requests, ranks, wait)
    return rows


class Giving:
    """The other ranks' side of `gather`."""

    def __init__(self, comm: MPI.Intracomm):
        self._comm = comm
        self._under_way: list[MPI.Request] = []
        self._buffers: list[np.ndarray] = []

    def give(self, rows: np.ndarray) -> None:
        """Send them; never waits. rows: (n, w), untouched until the next checkpoint."""
        self.close()  # rank 0 has had those before, or it would not ask again
        shape = np.array(rows.shape, np.int64)
        self._buffers = [shape, rows]
        self._under_way = [self._comm.Isend([shape, MPI.INT64_T], 0, TAG_KEPT)]
        self._under_way += [
            self._comm.Isend([rows[part], MPI.BYTE], 0, TAG_KEPT) for part in parts(*rows.shape)
        ]

    def close(self) -> None:
        """Rank 0 has received all that was sent."""
        MPI.Request.Waitall(self._under_way)
        self._under_way, self._buffers = [], []


def _all(requests: list[MPI.Request], ranks: Collection[int], wait: Wait) -> None:
    wait(
        lambda: mortal.all_done(requests),
        lambda: f"what the clients of {some_ranks(ranks)} keep, for a checkpoint",
    )
