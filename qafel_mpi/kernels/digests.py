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
    """

    def __init__(self) -> None:
        self._found: dict[int, tuple[np.ndarray, int]] = {}  # an array that is held keeps its id

    def put(self, payloads: Sequence[np.ndarray], digests: Sequence[int]) -> None:
        for payload, digest in zip(payloads, digests, strict=True):
            self._found[id(payload)] = payload, digest

    def of(self, payloads: Sequence[np.ndarray]) -> list[int]:
        """The digest of each, (n,) uint8, contiguous. All that was found until now is forgotten."""
        found = self._found
        if not found:
            return list(map(xz, payloads))
        digests = [found[id(p)][1] if id(p) in found else xz(p) for p in payloads]
        found.clear()
        return digests
