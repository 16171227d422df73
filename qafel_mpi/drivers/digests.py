"""The digests of /updates: what a replay compares its own payloads with.

CRC-64/XZ: it takes memory's pace, and being linear it tells where a single element differs
(drivers/replay/compare.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qafel_mpi.codecs import Codec
from qafel_mpi.kernels.digests import Digests, xz

NAME = "crc64-xz"  # the attribute digest
OFF = "off"

DigestsOf = Callable[[Sequence[np.ndarray]], list[int]]


def digest(payload: np.ndarray) -> int:
    """CRC-64/XZ of a payload, (n,) uint8, contiguous."""
    return xz(payload)


def digester(on: bool, uplink: Codec) -> DigestsOf:
    """The digest of each of several payloads, as they arrived; with trace.digests = false zeros.

    uplink: decodes them, and from now on takes digests on the way, where it can. They are to be asked for before
    their memory is used again.
    """
    if not on:
        return lambda payloads: [0] * len(payloads)
    found = Digests()
    uplink.take_digests(found)
    return found.of
