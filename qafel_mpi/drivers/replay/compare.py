"""Two payloads by their digests alone: where a single byte differs, and by how much the update.

A CRC is linear: the digests of two payloads of one length differ by what their difference alone gives. Of a single
byte that gives one of 255 values, moved on by the zero bytes behind it; moved back, it shows where the byte is. That
another difference looks like one byte has a probability of 255 · bytes / 2^64.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from qafel_mpi.codecs import Codec, PayloadError
from qafel_mpi.drivers.digests import digest

POLYNOMIAL = 0xC96C5795D7870F42  # of CRC-64/XZ, reflected
MASK = 2**64 - 1


@dataclass(frozen=True)
class Byte:
    """A byte of a payload that differs."""

    offset: int
    arrived: int
    computed: int

    def __str__(self) -> str:
        bits = self.arrived ^ self.computed
        flipped = "one bit" if bits.bit_count() == 1 else f"{bits.bit_count()} bits of one byte"
        return f"{flipped}: byte {self.offset} arrived as {self.arrived:#04x}, computed {self.computed:#04x}"


@dataclass(frozen=True)
class Apart:
    """Two decoded updates: how many elements differ, the first of them, the largest difference, ‖a − b‖ / ‖b‖."""

    elements: int
    tensor: str
    index: int
    largest: float
    relative: float

    def __str__(self) -> str:
        return (
            f"{self.elements} of the update's elements differ, the first in tensor {self.tensor!r} at {self.index}; "
            f"by {self.largest:.3g} at most, in norm by {self.relative:.3g} of the update"
        )


@dataclass(frozen=True)
class Difference:
    """An upload whose payload is not the recorded one. Its number counts the rows of /updates from 0.

    byte, apart: where the payloads differ in one byte alone. computed_bytes, computed_loss: what the replay has made;
    failure: that its training failed here.
    """

    upload: int
    rank: int
    host: str
    client: int
    participation: int
    start_version: int
    version: int
    payload_bytes: int
    computed_bytes: int
    loss: float
    computed_loss: float
    byte: Byte | None = None
    apart: Apart | None = None
    failure: str = ""

    def __str__(self) -> str:
        return (
            f"upload {self.upload} differs: rank {self.rank} on {self.host}, client {self.client}, participation "
            f"{self.participation}, trained from version {self.start_version}, used at version {self.version}; "
            + self.by_how_much()
        )

    def by_how_much(self) -> str:
        """A phrase."""
        if self.failure:
            return f"its training fails here: {self.failure}"
        if self.byte is not None:
            return f"{self.byte}; {self.apart}" if self.apart is not None else str(self.byte)
        if self.payload_bytes != self.computed_bytes:
            size = f"{self.payload_bytes:,} bytes arrived, {self.computed_bytes:,} are computed here"
        else:
            size = "more than one byte differs"
        loss = (
            f"its training loss is the same, {self.loss:.9g}"
            if self.loss == self.computed_loss
            else f"its training loss was {self.loss:.9g} and is {self.computed_loss:.9g} here"
        )
        return f"{size}; {loss}"

    def to_json(self) -> dict[str, Any]:
        """JSON-able; null for a loss that is no number."""
        found = asdict(self)
        for name in ("loss", "computed_loss"):
            found[name] = found[name] if np.isfinite(found[name]) else None
        return found


def differing_byte(payload: np.ndarray, wanted: int) -> Byte | None:
    """The one byte in which a payload of this digest, of the same length, differs from this one; else None.

    payload: (n,) uint8. n steps back, of some 0.3 µs each.
    """
    state = digest(payload) ^ wanted
    table, by_top = _table(), _by_top()
    value_of = {entry: value for value, entry in enumerate(table) if value}
    for offset in range(payload.size - 1, -1, -1):
        if (value := value_of.get(state)) is not None:
            computed = int(payload[offset])
            return Byte(offset, computed ^ value, computed)
        index = by_top[state >> 56]  # the step before: state = table[index] ^ (before >> 8)
        state = ((state ^ table[index]) << 8 | index) & MASK
    return None


def mended(payload: np.ndarray, byte: Byte) -> np.ndarray:
    """The payload as it arrived."""
    found = payload.copy()
    found[byte.offset] = byte.arrived
    return found


def apart(codec: Codec, arrived: np.ndarray, computed: np.ndarray, key: int) -> Apart | None:
    """By how much the decoded updates differ; None where what arrived can't be decoded."""
    a, b = (torch.zeros(codec.layout.elements, dtype=codec.dtype) for _ in range(2))
    try:
        codec.decode(arrived, a, key)
        codec.decode(computed, b, key)
    except PayloadError:
        return None
    differing = torch.nonzero(a != b).reshape(-1)
    tensor, index = codec.layout.locate(int(differing[0])) if len(differing) else ("", -1)
    between = (a - b).double()
    norm = float(torch.linalg.vector_norm(b.double()))
    return Apart(
        len(differing),
        tensor,
        index,
        float(between.abs().max()),
        float(torch.linalg.vector_norm(between)) / norm if norm else float("inf"),
    )


@cache
def _table() -> tuple[int, ...]:
    """The CRC's step by a byte."""
    found = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        found.append(value)
    return tuple(found)


@cache
def _by_top() -> dict[int, int]:
    """The index of the table's entry by its highest byte, which is another one for each."""
    return {entry >> 56: index for index, entry in enumerate(_table())}
