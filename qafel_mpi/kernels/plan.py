"""How the kernels cut a vector: buckets that share a scale, segments that lie in the cache, shares for threads.

A bucket of up to SEGMENT elements is one segment, a longer one is several. Segments are independent of each
other once their bucket's scale is known, so the bytes depend neither on threads nor on their order.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from qafel_mpi.kernels.reference import SEGMENT, slot_starts

# Below this many elements a thread costs more than it brings (it is woken in some 50 microseconds).
ELEMENTS_PER_THREAD = 1 << 18
START, SLOT, BUCKET = 0, 1, 2  # columns of Plan.table
PLACE = 3  # and of `placed`


@dataclass(frozen=True, eq=False)
class Plan:
    """The segments of a vector.

    starts: (buckets + 1,) int64, where buckets begin, and d. table: (segments + 1, 3) int64: first element, first
    slot (a multiple of 8), bucket; its last row closes the last segment. single: every bucket is one segment, so
    that one pass does all.
    """

    elements: int
    buckets: int
    slots: int  # of the code region, without what would pad the last bucket
    largest_bucket: int
    starts: np.ndarray
    table: np.ndarray
    single: bool

    @property
    def segments(self) -> int:
        return len(self.table) - 1

    def code_bytes(self, bits: int) -> int:
        """Bytes of the code region."""
        return -(-self.slots * bits // 8)


def plan(bucket_starts: np.ndarray) -> Plan:
    """bucket_starts: (buckets + 1,) int64, ascending without repetition, from 0 to d."""
    lengths = np.diff(bucket_starts)
    first_slot = slot_starts(bucket_starts)
    pieces = -(-lengths // SEGMENT)
    bucket = np.repeat(np.arange(len(lengths)), pieces)
    offset = SEGMENT * (np.arange(len(bucket)) - np.repeat(np.cumsum(pieces) - pieces, pieces))
    table = np.empty((len(bucket) + 1, 3), dtype=np.int64)
    table[:-1, START] = bucket_starts[bucket] + offset
    table[:-1, SLOT] = first_slot[bucket] + offset
    table[:-1, BUCKET] = bucket
    slots = int(first_slot[-2] + lengths[-1])
    table[-1] = bucket_starts[-1], slots, len(lengths)
    return Plan(
        elements=int(bucket_starts[-1]),
        buckets=len(lengths),
        slots=slots,
        largest_bucket=int(lengths.max()),
        starts=bucket_starts,
        table=table,
        single=bool((pieces == 1).all()),
    )


def placed(cut: Plan, pieces: np.ndarray | None) -> np.ndarray:
    """cut.table with a column more: where a segment begins in the vector that the pieces lie in.

    pieces: (n, 3) int64 of [first element there, first element of what is cut, elements]. No bucket lies in two.
    """
    starts = cut.table[:, START]
    if pieces is None:
        return np.column_stack((cut.table, starts))
    piece = np.searchsorted(pieces[:, 1], starts, side="right") - 1
    return np.column_stack((cut.table, starts + pieces[piece, 0] - pieces[piece, 1]))


def segment_ends(d: int) -> np.ndarray:
    """(segments,) int64: the ends of segments of SEGMENT elements, of a vector of d that no bucket divides."""
    return np.append(np.arange(SEGMENT, d, SEGMENT), d)


def shares(ends: np.ndarray, threads: int) -> list[tuple[int, int]]:
    """[first, last) pieces for each of up to `threads` threads, of about as many elements each.

    ends: (pieces,) elements up to and with each piece. One share where more would not pay.
    """
    total = int(ends[-1]) if len(ends) else 0
    count = max(1, min(threads, total // ELEMENTS_PER_THREAD, len(ends)))
    inner = np.searchsorted(ends, total * np.arange(1, count) // count, side="right")
    return list(pairwise([0, *inner.tolist(), len(ends)]))


def spread(call: Callable[[int, int, int], int], shares: list[tuple[int, int]]) -> int:
    """call(share, first, last) for each share, the first one on this thread. Returns the largest result."""
    if len(shares) == 1:
        return call(0, *shares[0])
    others = [_pool(len(shares) - 1).submit(call, i, *share) for i, share in enumerate(shares) if i]
    result = call(0, *shares[0])
    return max([result, *(other.result() for other in others)])


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="qafel-codec")
