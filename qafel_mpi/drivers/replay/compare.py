"""Two payloads by their digests alone: where a single element differs, and by how much the update.

A CRC is linear: the digests of two payloads of one length differ by what their difference alone gives. Of up to four
bytes side by side that is their difference itself, moved on by the zero bytes behind it; moved back, it shows where
they are. Another difference looks like one byte with a probability of bytes / 2^56, and like the four bytes of an
element with one of bytes / 2^34: 9e-7 at 15 kB, 3e-4 at 5.9 MB.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from qafel_mpi.codecs import Codec, PayloadError
from qafel_mpi.drivers.digests import digest
from qafel_mpi.kernels.numba.crc import TABLE

MASK = 2**64 - 1


@dataclass(frozen=True)
class Byte:
    """The one place where a payload differs: a byte, or the first of up to four of an element.

    arrived, computed: as whole numbers, the first byte the lowest.
    """

    offset: int
    arrived: int
    computed: int
    count: int = 1

    def __str__(self) -> str:
        bits = self.arrived ^ self.computed
        if self.count == 1:
            flipped = "one bit" if bits.bit_count() == 1 else f"{bits.bit_count()} bits of one byte"
            return (
                f"{flipped}: byte {self.offset} arrived as {self.arrived:#04x}, computed {self.computed:#04x}"
            )
        digits = 2 * self.count + 2
        return (
            f"{bits.bit_count()} bits of {self.count} bytes from {self.offset} on: they arrived as "
            f"{self.arrived:#0{digits}x}, computed {self.computed:#0{digits}x}"
        )


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


RECORDED, FIRST, OTHER = "the recorded bits", "the same bits as at first", "other bits"


@dataclass(frozen=True)
class Repeats:
    """What further trainings of one upload gave. gave: (how it was trained, RECORDED, FIRST or OTHER), in order.

    apart: the first training's update and the recorded one where a further training gave it; else the first other.
    """

    gave: tuple[tuple[str, str], ...]
    apart: Apart | None = None

    @property
    def found(self) -> bool:
        """Whether one of them gave the recorded bits: the first training here was wrong."""
        return any(what == RECORDED for _, what in self.gave)

    def __str__(self) -> str:
        each = ", ".join(f"{how}: {what}" for how, what in self.gave)
        if self.found:
            verdict = "this machine computed it wrongly at first, or does not compute the same each time"
        elif all(what == FIRST for _, what in self.gave):
            verdict = "this machine computes the same each time, so the rank computed otherwise"
        else:
            verdict = "this machine does not compute the same each time"
        return f"trained again here ({each}): {verdict}" + (f"; {self.apart}" if self.apart else "")


@dataclass(frozen=True)
class Difference:
    """An upload whose payload is not the recorded one. Its number counts the rows of /updates from 0.

    byte, apart: where the payloads differ in one byte or element alone. computed_bytes, computed_loss, computed_norm:
    what the replay has made, the norm of the decoded update; failure: that its training failed here. norm, error: of
    what the rank encoded, and what encoding lost of it, where the run recorded them (trace.encoding_error). repeats:
    what further trainings here gave, in one process.
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
    computed_norm: float = float("nan")
    norm: float = float("nan")
    error: float = float("nan")
    repeats: Repeats | None = None

    @property
    def apart_at_least(self) -> float:
        """‖a − b‖₂ of the decoded updates is no less, by the triangle inequality; nan where no norm was recorded."""
        return float(np.maximum(0.0, abs(self.norm - self.computed_norm) - self.error))

    def __str__(self) -> str:
        return (
            f"upload {self.upload} differs: rank {self.rank} on {self.host}, client {self.client}, participation "
            f"{self.participation}, trained from version {self.start_version}, used at version {self.version}; "
            + self.by_how_much()
        )

    def by_how_much(self) -> str:
        """A phrase."""
        return self._differs() + (f"; {self.repeats}" if self.repeats is not None else "")

    def _differs(self) -> str:
        if self.failure:
            return f"its training fails here: {self.failure}"
        if self.byte is not None:
            return f"{self.byte}; {self.apart}" if self.apart is not None else str(self.byte)
        if self.payload_bytes != self.computed_bytes:
            size = f"{self.payload_bytes:,} bytes arrived, {self.computed_bytes:,} are computed here"
        else:
            size = "more than one element differs"
        loss = (
            f"its training loss is the same, {self.loss:.9g}"
            if self.loss == self.computed_loss
            else f"its training loss was {self.loss:.9g} and is {self.computed_loss:.9g} here"
        )
        return f"{size}; {loss}{self._norms()}"

    def _norms(self) -> str:
        if np.isnan(self.norm) or np.isnan(self.computed_norm):
            return ""
        return (
            f"; the rank encoded an update of norm {self.norm:.9g} and lost {self.error:.3g} of it, here it decodes "
            f"to one of {self.computed_norm:.9g}: they are apart by {self.apart_at_least:.3g} at least"
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-able; null for a loss or a norm that is no number."""
        found = asdict(self) | {"apart_at_least": self.apart_at_least}
        return {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in found.items()
        }


ELEMENT = 4  # bytes


def differing_byte(payload: np.ndarray, wanted: int) -> Byte | None:
    """The one place in which a payload of this digest, of the same length, differs from this one; else None.

    payload: (n,) uint8. n steps back, of some 0.3 µs each.
    """
    state = digest(payload) ^ wanted
    if not state:
        return None
    table, by_top = TABLE.tolist(), _by_top()
    for offset in range(payload.size - 1, -1, -1):
        index = by_top[state >> 56]  # the step before, of a zero byte: state = table[index] ^ (before >> 8)
        state = ((state ^ table[index]) << 8 | index) & MASK
        # A register of so many low bits is these bytes' difference, and nothing differs before them.
        if state < 256 or (state >> 8 * ELEMENT == 0 and offset % ELEMENT == 0):
            count = (state.bit_length() + 7) // 8
            computed = int.from_bytes(payload[offset : offset + count].tobytes(), "little")
            return Byte(offset, computed ^ state, computed, count) if offset + count <= payload.size else None
    return None


def mended(payload: np.ndarray, byte: Byte) -> np.ndarray:
    """The payload as it arrived."""
    found = payload.copy()
    arrived = byte.arrived.to_bytes(byte.count, "little")
    found[byte.offset : byte.offset + byte.count] = np.frombuffer(arrived, np.uint8)
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
def _by_top() -> dict[int, int]:
    """The index of the table's entry by its highest byte, which is another one for each."""
    return {entry >> 56: index for index, entry in enumerate(TABLE.tolist())}
