"""The wire format, version 1: one MPI message is a 64-byte little-endian header and a payload, in one buffer.

| offset | field         | type | meaning                                                                |
|--------|---------------|------|------------------------------------------------------------------------|
| 0      | magic         | S4   | b"QFL1"                                                                |
| 4      | kind          | u1   | a Kind                                                                 |
| 5      | codec         | u1   | codec id of the payload (codecs.CODECS; 0: no codec)                   |
| 6      | bits          | u1   | bits a code (32: float32, 64: float64)                                 |
| 7      | flags         | u1   | FLAG_ENTROPY                                                           |
| 8      | client        | u4   | the client that an UPDATE or TRAIN is about                            |
| 12     | checksum      | u4   | CRC-32C of header and payload, taken with this field as zero           |
| 16     | version       | u8   | server version t: an update's start, the t of q^t                      |
| 24     | sequence      | u8   | counts the messages of a sender to one receiver (a client's updates)   |
| 32     | payload_bytes | u8   | bytes after the header                                                 |
| 40     | elements      | u8   | length d of the vector that the payload encodes                        |
| 48     | seed          | u8   | the derived key of the payload's random numbers                        |
| 56     | loss          | f4   | UPDATE: mean training loss of the local steps; zero elsewhere          |
| 60     | train_seconds | f4   | UPDATE: seconds the local training took; zero elsewhere                |

A CRC-32C finds every single flipped bit and every burst of up to 32 bits for certain.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import crc32c as _crc32c
import numpy as np

MAGIC = b"QFL1"
FLAG_ENTROPY = 1

HEADER = np.dtype(
    [
        ("magic", "S4"),
        ("kind", "u1"),
        ("codec", "u1"),
        ("bits", "u1"),
        ("flags", "u1"),
        ("client", "<u4"),
        ("checksum", "<u4"),
        ("version", "<u8"),
        ("sequence", "<u8"),
        ("payload_bytes", "<u8"),
        ("elements", "<u8"),
        ("seed", "<u8"),
        ("loss", "<f4"),
        ("train_seconds", "<f4"),
    ]
)
HEADER_BYTES = HEADER.itemsize
# The same layout for `struct`, which reads and writes a header in a tenth of numpy's time.
_HEADER = struct.Struct("<4sBBBBIIQQQQQff")
_CHECKSUM = struct.Struct("<I")
_CHECKSUM_AT = HEADER.fields["checksum"][1]  # type: ignore[index]
_ZERO4 = bytes(4)


class Kind(IntEnum):
    """What a message is."""

    BROADCAST = 1  # q^t: the downlink payload of one server step
    TRAIN = 2  # start a client from the version the receiver now holds (virtual clock)
    UPDATE = 3  # a client's encoded update
    MODEL = 4  # the full hidden state of version t, for a receiver that missed too much
    STOP = 5  # the last message rank 0 sends to a rank
    BYE = 6  # the last message a rank sends to rank 0; sequence = updates it sent
    DOWNLOAD = 7  # unicast: Q_s(x^t) for one client that starts
    EVALUATE = 8  # x^t in full, for a worker to evaluate its share of the test set (virtual clock)
    SCORE = 9  # what it found
    DIVERGED = 10  # in an UPDATE's place: the training gave no finite update; the reason as UTF-8 text


_KINDS = {int(kind): kind for kind in Kind}


class WireError(Exception):
    """A message whose header or payload does not check out; it is dropped and counted."""

    def __init__(self, field: str, detail: str, *, rank: int, sequence: int):
        super().__init__(f"message {sequence} from rank {rank}: {field}: {detail}")
        self.field, self.rank, self.sequence = field, rank, sequence


@dataclass(frozen=True, slots=True)
class Expected:
    """What a receiver accepts for one kind of message.

    payload_bytes is exact, or a maximum where the size is variable (entropy coding, lists).
    """

    codec: int = 0
    bits: int = 0
    flags: int = 0
    elements: int = 0
    payload_bytes: int = 0
    variable: bool = False


class Message(NamedTuple):
    """A header's fields as plain Python values (numpy scalars are slow to handle one at a time).

    A tuple because one is made at both ends of every message: a frozen dataclass takes ten times as long. Its
    order is the header's, without magic and checksum.
    """

    kind: Kind
    codec: int = 0
    bits: int = 0
    flags: int = 0
    client: int = 0
    version: int = 0
    sequence: int = 0
    payload_bytes: int = 0
    elements: int = 0
    seed: int = 0
    loss: float = 0.0
    train_seconds: float = 0.0

    @property
    def wire_bytes(self) -> int:
        return HEADER_BYTES + self.payload_bytes


def checksum(frame: np.ndarray) -> int:
    """CRC-32C of a whole frame (header and payload, uint8), with the checksum field taken as zero."""
    return _checksum(frame.data)


def _checksum(frame: memoryview) -> int:
    crc32c = _crc32c.crc32c
    return crc32c(frame[_CHECKSUM_AT + 4 :], crc32c(_ZERO4, crc32c(frame[:_CHECKSUM_AT])))


def pack(
    frame: np.ndarray,
    kind: Kind,
    *,
    payload_bytes: int = 0,
    expected: Expected | None = None,
    client: int = 0,
    version: int = 0,
    sequence: int = 0,
    seed: int = 0,
    loss: float = 0.0,
    train_seconds: float = 0.0,
) -> Message:
    """Write the header of a frame whose payload already lies behind it. Returns what the header says.

    frame: uint8, contiguous, at least HEADER_BYTES + payload_bytes. expected supplies codec, bits,
    flags and elements, so that both ends describe a payload with the same value.
    """
    e = expected or _NOTHING
    return write(
        frame,
        Message(
            kind, e.codec, e.bits, e.flags, client, version, sequence, payload_bytes, e.elements, seed, loss,
            train_seconds,
        ),
    )  # fmt: skip


_NOTHING = Expected()


def write(frame: np.ndarray, message: Message) -> Message:
    """`pack` of a message that is already made; returns it."""
    data = frame.data[: HEADER_BYTES + message[7]]
    _HEADER.pack_into(data, 0, MAGIC, *message[:5], 0, *message[5:])
    _CHECKSUM.pack_into(data, _CHECKSUM_AT, _crc32c.crc32c(data))
    return message


def check(frame: np.ndarray, received: int, expected: Mapping[Kind, Expected], *, rank: int) -> Message:
    """Read and verify the frame of `received` bytes that came from `rank`.

    frame: uint8, the receive buffer. expected: what this end accepts, by kind. Raises WireError naming the
    first field that is off; nothing of such a message may be used.
    """
    if received < HEADER_BYTES or received > frame.size:
        raise WireError(
            "length", f"{received} bytes received, a header has {HEADER_BYTES}", rank=rank, sequence=0
        )
    data = frame.data[:received]
    (
        magic, kind, codec, bits, flags, client, crc, version, sequence, payload_bytes, elements, seed,
        loss, train_seconds,
    ) = _HEADER.unpack_from(data)  # fmt: skip
    accepted = expected.get(kind)
    if (
        magic != MAGIC
        or payload_bytes != received - HEADER_BYTES
        or crc != _checksum(data)
        or accepted is None
        or (codec, bits, flags, elements)
        != (accepted.codec, accepted.bits, accepted.flags, accepted.elements)
        or (payload_bytes != accepted.payload_bytes and not accepted.variable)
        or payload_bytes > accepted.payload_bytes
    ):
        raise _what_is_wrong(data, expected, rank)
    return Message._make(
        (_KINDS[kind], codec, bits, flags, client, version, sequence, payload_bytes, elements, seed,
         loss, train_seconds)
    )  # fmt: skip


def _what_is_wrong(data: memoryview, expected: Mapping[Kind, Expected], rank: int) -> WireError:
    """The first field that is off, in a header of which one is."""
    h: dict[str, Any] = dict(zip(HEADER.names or (), _HEADER.unpack_from(data), strict=True))
    received = len(data) - HEADER_BYTES

    def fault(field: str, detail: str) -> WireError:
        return WireError(field, detail, rank=rank, sequence=h["sequence"])

    if h["magic"] != MAGIC:
        return fault("magic", f"{h['magic']!r} is not {MAGIC!r}: not a message of this program or version")
    if h["payload_bytes"] != received:
        return fault("payload_bytes", f"header says {h['payload_bytes']}, {received} arrived")
    if h["checksum"] != (found := _checksum(data)):
        return fault("checksum", f"header says {h['checksum']:#010x}, the bytes give {found:#010x}")
    accepted = expected.get(h["kind"])
    if accepted is None:
        return fault("kind", f"{h['kind']} is not expected here; expected {sorted(k.name for k in expected)}")
    for field in ("codec", "bits", "flags", "elements"):
        if h[field] != (wanted := getattr(accepted, field)):
            return fault(field, f"{h[field]}, this run uses {wanted}")
    return fault("payload_bytes", f"{received}, this run uses {accepted.payload_bytes}")
