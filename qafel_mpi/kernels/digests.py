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

    payload, digest: the last one; a kernel's caller writes them, and calls `keep` first. earlier: those before it.
    """

    __slots__ = ("digest", "earlier", "payload")

    def __init__(self) -> None:
        self.payload: np.ndarray | None = None
        self.digest = 0
        self.earlier: list[tuple[np.ndarray, int]] = []

    def keep(self) -> None:
        """The last one becomes an earlier one: another is to follow."""
        if self.payload is not None:
            self.earlier.append((self.payload, self.digest))

    def of(self, payloads: Sequence[np.ndarray]) -> list[int]:
        """The digest of each, (n,) uint8, contiguous. All that was found until now is forgotten."""
        last, self.payload = self.payload, None
        if last is None:
            return [xz(payloads[0])] if len(payloads) == 1 else list(map(xz, payloads))
        if last is payloads[0] and len(payloads) == 1:  # most often
            if self.earlier:
                self.earlier.clear()
            return [self.digest]
        # An array that is held keeps its id.
        known = {id(payload): digest for payload, digest in self.earlier}
        known[id(last)] = self.digest
        digests = [known[id(p)] if id(p) in known else xz(p) for p in payloads]
        self.earlier.clear()
        return digests
