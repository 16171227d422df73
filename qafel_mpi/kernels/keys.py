"""Keys of the counter-based random numbers: one 64-bit key for each thing that draws.

A key depends on (run seed, stream, owner, counter) alone: not on ranks, threads, device or order. Every
random number of the project comes from such a key.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache

MASK64 = 2**64 - 1
_GOLDEN64 = 0x9E3779B97F4A7C15


class Stream(IntEnum):
    """What a key's random numbers are for; two streams never share a key."""

    UPLINK = 1  # rounding of an update; owner: client, counter: participation
    DOWNLINK = 2  # rounding of q^t; owner: the server (or a client, unicast), counter: version
    SHUFFLE = 3  # order of a client's examples; owner: client, counter: participation
    INIT = 4  # x^0
    PARTITION = 5
    EVALUATION = 6
    SCHEDULE = 7  # arrivals
    DROPOUT = 8  # which clients never report
    SELECTION = 9  # which client starts
    DURATION = 10
    DATA = 11  # made data, splits
    ROTATION = 12  # eden's one rotation of all uploads
    RESIDUAL = 13  # rounding of what error feedback keeps; owner: client, counter: participation


def splitmix64(z: int) -> int:
    """One step of SplitMix64 (Steele, Lea and Flood 2014): a bijection on 64 bits."""
    z = (z + _GOLDEN64) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def derive(run_seed: int, stream: int, owner: int = 0, counter: int = 0) -> int:
    """The 64-bit key of (run_seed, stream, owner, counter): SplitMix64 chained over the four.

    >>> hex(derive(0, Stream.UPLINK, 0, 0)) != hex(derive(0, Stream.UPLINK, 0, 1))
    True
    """
    return counted(of_owner(run_seed, stream, owner), counter)


def counted(chain: int, counter: int) -> int:
    """`derive` of a counter, from `of_owner` of all before it."""
    return splitmix64(chain ^ (counter & MASK64))


def of_owner(run_seed: int, stream: int, owner: int) -> int:
    """The chain's first three words: who derives one key after the other keeps it."""
    return splitmix64(of_stream(run_seed, stream) ^ (owner & MASK64))


@lru_cache(maxsize=64)
def of_stream(run_seed: int, stream: int) -> int:
    """The chain's first two words, the same for all keys that a run derives for one stream."""
    return splitmix64(splitmix64(run_seed & MASK64) ^ (stream & MASK64))
