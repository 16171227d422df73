"""How the rotating kernels cut a vector: blocks of sixteen buckets side by side, one bucket a lane of a vector unit.

Element i of a block of w buckets belongs to bucket i mod w, at position i // w. All blocks have LANES buckets of m
elements, but for the last one: what is left goes into fewer or shorter buckets, filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

LANES = 16
LEAST, MOST = 8, 4096  # elements of a bucket; powers of two
_SCALE_AS_CODES = 16  # what a bucket's scale counts when the last block's buckets are chosen


@dataclass(frozen=True)
class Block:
    """One block. begin: its first element; padded_begin: the same, with the zeros of blocks before it."""

    begin: int
    elements: int
    lanes: int
    bucket: int  # elements of a bucket: positions of the block
    first_bucket: int
    first_position: int  # of the counters of its signs

    @property
    def padded(self) -> int:
        """Elements with the zeros behind them."""
        return self.lanes * self.bucket


@dataclass(frozen=True)
class Blocks:
    """The blocks of a vector of `elements`. bucket: m, a power of two from LEAST to MOST."""

    elements: int
    bucket: int

    def __post_init__(self) -> None:
        if not LEAST <= self.bucket <= MOST or self.bucket & (self.bucket - 1):
            raise ValueError(f"bucket = {self.bucket}: a power of two from {LEAST} to {MOST}")

    @cached_property
    def whole(self) -> int:
        """Blocks of LANES buckets of m elements, all filled."""
        return self.elements // (LANES * self.bucket)

    @cached_property
    def last(self) -> Block | None:
        """The block of what is left; None where nothing is."""
        begin = self.whole * LANES * self.bucket
        if (left := self.elements - begin) == 0:
            return None
        lanes, bucket = _fewest(left, self.bucket)
        return Block(begin, left, lanes, bucket, self.whole * LANES, self.whole * self.bucket)

    def __iter__(self) -> Iterator[Block]:
        m = self.bucket
        for k in range(self.whole):
            yield Block(k * LANES * m, LANES * m, LANES, m, k * LANES, k * m)
        if self.last is not None:
            yield self.last

    @cached_property
    def buckets(self) -> int:
        return LANES * self.whole + (self.last.lanes if self.last else 0)

    @cached_property
    def padded(self) -> int:
        """Elements with the zeros behind the last one; at least 8, and a multiple of 8."""
        return LANES * self.bucket * self.whole + (self.last.padded if self.last else 0)

    @cached_property
    def largest_bucket(self) -> int:
        return self.bucket if self.whole or self.last is None else self.last.bucket

    @cached_property
    def ends(self) -> np.ndarray:
        """(blocks,) elements up to and with each block."""
        return np.array([block.begin + block.elements for block in self], dtype=np.int64)


def _fewest(left: int, most: int) -> tuple[int, int]:
    """(buckets, elements of each) for `left` elements: what costs least, a scale counted as 16 codes.

    >>> _fewest(4706, 512), _fewest(600, 512), _fewest(113, 512), _fewest(20, 512)
    ((10, 512), (5, 128), (1, 128), (1, 32))
    """
    sizes = [1 << k for k in range(most.bit_length() - 1, LEAST.bit_length() - 2, -1)]
    choices = [(-(-left // m), m) for m in sizes if -(-left // m) <= LANES]
    return min(choices, key=lambda choice: choice[0] * (choice[1] + _SCALE_AS_CODES))
