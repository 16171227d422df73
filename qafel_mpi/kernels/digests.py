"""Digests of payloads: CRC-64/XZ, which is linear, so that a replay can tell where a single element differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fastcrc import crc64

xz: Callable[[Any], int] = crc64.xz  # a call of ours around it takes a third of the time for 15 kB


class Digests:
    """Those that kernels have taken while they decoded, until who wants them asks; others are taken then.

    A payload is known by its array, not by its bytes: whoever reuses the memory asks first.

    put: takes a payload and its digest, as a pair. It is a list's own method, which costs less than one of ours.
    """

    def __init__(self) -> None:
        self._found: list[tuple[np.ndarray, int]] = []
        self.put: Callable[[tuple[np.ndarray, int]], None] = self._found.append

    def of(self, payloads: Sequence[np.ndarray]) -> list[int]:
        """The digest of each, (n,) uint8, contiguous. All that was found until now is forgotten."""
        found = self._found
        if not found:
            return [xz(payloads[0])] if len(payloads) == 1 else list(map(xz, payloads))
        if len(found) == 1 == len(payloads) and found[0][0] is payloads[0]:  # most often
            return [found.pop()[1]]
        known = {id(payload): digest for payload, digest in found}  # an array that is held keeps its id
        digests = [known[id(p)] if id(p) in known else xz(p) for p in payloads]
        found.clear()
        return digests
