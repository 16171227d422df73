"""Messages above 2^31 − 1 bytes: MPI's calls count elements in 32 bits, and libraries differ in what they do beyond.

Between two ranks such a message stays one: it is one element of a datatype made of blocks, over the same buffer, with
the same bytes on the wire. Two ends need not know of each other's datatype. Tried with 2.4 GB: Open MPI 5.0.11. There
MPI_Get_count of bytes is wrong, and MPI_Get_elements right.

A broadcast goes in parts, one collective each: in libraries those are the least sure with large datatypes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import cache
from typing import Any

from mpi4py import MPI

MOST_BYTES = 2**31 - 1  # of MPI.BYTE in one call
PART_BYTES = 1 << 30  # of a broadcast, in one call
BLOCK_BYTES = 1 << 20


def spec(buffer: Any, size: int) -> list[Any]:
    """What MPI is given for the first `size` bytes of a buffer, in a message between two ranks.

    buffer: (n,) uint8, n >= size, of the host or a device; sliced.
    """
    if size <= MOST_BYTES:
        return [buffer[:size], MPI.BYTE]
    return [buffer[:size], 1, _blocks(size, BLOCK_BYTES)]


def received(status: MPI.Status, most: int) -> int:
    """Bytes of a message that a receive for at most `most` bytes has got."""
    return status.Get_count(MPI.BYTE) if most <= MOST_BYTES else status.Get_elements(MPI.BYTE)


@cache
def _blocks(size: int, block: int) -> MPI.Datatype:
    """So many bytes in a row. Kept: a run's large messages have few sizes, and a datatype takes little memory."""
    whole, rest = divmod(size, block)
    one = MPI.BYTE.Create_contiguous(block)
    made = MPI.Datatype.Create_struct([whole, rest], [0, whole * block], [one, MPI.BYTE]).Commit()
    one.Free()
    return made


class Ibcasts:
    """Collective: the broadcast of a buffer, (n,) uint8, from rank 0, in parts; Test as of one request."""

    def __init__(self, comm: MPI.Intracomm, buffer: Any):
        self._requests = deque(comm.Ibcast([part, MPI.BYTE], 0) for part in _parts(buffer))

    def Test(self) -> bool:
        while self._requests and self._requests[0].Test():
            self._requests.popleft()
        return not self._requests


def _parts(buffer: Any) -> Iterator[Any]:
    if len(buffer) <= MOST_BYTES:
        yield buffer
        return
    for begin in range(0, len(buffer), PART_BYTES):
        yield buffer[begin : begin + PART_BYTES]
