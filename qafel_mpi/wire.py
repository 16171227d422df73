"""The wire format, version 1: one MPI message is a 64-byte little-endian header and a payload, in one buffer.

| offset | field         | type | meaning                                                                |
|--------|---------------|------|------------------------------------------------------------------------|
| 0      | magic         | S4   | b"QFL1"                                                                |
| 4      | kind          | u1   | a Kind                                                                 |
| 5      | codec         | u1   | codec id of the payload (codecs.CODECS; 0: no codec)                   |
| 6      | bits          | u1   | bits a code (32: float32, 64: float64)                                 |
| 7      | flags         | u1   | FLAG_ENTROPY, FLAG_HEADER_ONLY                                         |
| 8      | client        | u4   | the client that an UPDATE, TRAIN or DOWNLOAD is about                  |
| 12     | checksum      | u4   | CRC-32C of header and payload (FLAG_HEADER_ONLY: of the header alone), |
|        |               |      | taken with this field as zero                                          |
| 16     | version       | u8   | server version t: an update's start, the t of q^t                      |
| 24     | sequence      | u8   | counts the messages of a sender to one receiver; of an UPDATE or a     |
|        |               |      | DOWNLOAD: which of its client's trainings it is about, from 0; of an   |
|        |               |      | ADOPT: the receiver's clients in a synchronous round, from `version` on |
| 32     | payload_bytes | u8   | bytes after the header                                                 |
| 40     | elements      | u8   | length d of the vector that the payload encodes                        |
| 48     | seed          | u8   | the derived key of the payload's random numbers; of a TRAIN: threads   |
|        |               |      | to train with, 0: as many as the worker has; of a DIGEST: CRC-64       |
|        |               |      | (ECMA-182) of the hidden state's bytes                                 |
| 56     | loss          | f4   | UPDATE: mean training loss of the local steps, infinite beyond what a  |
|        |               |      | float32 holds; zero elsewhere                                          |
| 60     | train_seconds | f4   | UPDATE: seconds the local training took; zero elsewhere                |

A CRC-32C finds every single flipped bit and every burst of up to 32 bits for certain.

FLAG_ENTROPY: the payload is one Zstandard frame (codecs/FORMAT.md). FLAG_HEADER_ONLY: the checksum leaves the payload
out, for networks that check their own packets. Which flags a message must have is agreed on before the first one, and
never taken from the message: a flipped flag can't switch the check of the payload off.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from ctypes import c_float
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from fastcrc import crc32

MAGIC = b"QFL1"
FLAG_ENTROPY = 1
FLAG_HEADER_ONLY = 2
NO_CLIENT = 2**32 - 1  # of a DIVERGED: no client has failed, but an evaluation

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
ADOPT_BYTES = 4096  # of one message, at the most
DIGEST_BYTES = 8  # of zeros: of what a client sends, a BYE alone is as short as a header
# The same layout for `struct`, which reads and writes a header in a tenth of numpy's time. A Message's fields lie
# there in its order; the checksum between them ("4x") is written as zero and left out in reading.
_FIELDS = "BBBBI4xQQQQQff"
_WRITE = struct.Struct("<4s" + _FIELDS)
_READ = struct.Struct("<4x" + _FIELDS)
_CHECKSUM = struct.Struct("<I")
_CHECKSUM_AT = HEADER.fields["checksum"][1]  # type: ignore[index]
_ZERO4 = bytes(4)
_crc32c = crc32.iscsi  # CRC-32C is the CRC of iSCSI (RFC 3720)


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
    # In an UPDATE's place: the training gave no finite update. With NO_CLIENT, in a SCORE's: the evaluation failed.
    DIVERGED = 10  # the reason as UTF-8 text
    ADOPT = (
        11  # clients that move to the receiver, whose rank has died: pairs of int64, (client, participations)
    )
    DIGEST = 12  # of x̂^version, in the field seed: what rank 0 compares with its own


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

    kind: Kind  # as read from a frame: its number, which compares equal
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


# Message(*fields) in half the time; as the type's own function it takes the fields in one tuple, unchecked.
message_of: Callable[[tuple[Any, ...]], Message] = partial(tuple.__new__, Message)


def as_sent(loss: float) -> float:
    """As a header carries it, a float32: what lies beyond its range is infinite, which `struct` refuses to say.

    >>> as_sent(0.5), as_sent(1e39)
    (0.5, inf)
    """
    return c_float(loss).value


def without_payload_checksum(expected: Mapping[Kind, Expected]) -> dict[Kind, Expected]:
    """The same kinds in a run whose checksums leave payloads out. A kind that has none stays as it is."""
    return {
        kind: replace(e, flags=e.flags | FLAG_HEADER_ONLY) if e.payload_bytes else e
        for kind, e in expected.items()
    }


def checksum(frame: memoryview, flags: int = 0) -> int:
    """CRC-32C of a whole frame (header and payload, uint8), with the checksum field taken as zero.

    With FLAG_HEADER_ONLY in flags, of the header alone.
    """
    return _checksum(frame[:HEADER_BYTES].tobytes(), frame, flags)


def _checksum(head: bytes, frame: memoryview, flags: int) -> int:
    # Three bytes objects joined cost 0.3 µs less than three calls on views of the frame.
    crc = _crc32c(head[:_CHECKSUM_AT] + _ZERO4 + head[_CHECKSUM_AT + 4 :])
    return crc if flags & FLAG_HEADER_ONLY else _crc32c(frame[HEADER_BYTES:], crc)


def write(frame: memoryview, message: Message) -> Message:
    """Write the header of a frame whose payload already lies behind it. Returns the message.

    frame: at least message.wire_bytes long. Codec, bits, flags and elements are those of the Expected that the
    receiver has for this kind.
    """
    try:
        _WRITE.pack_into(frame, 0, MAGIC, *message)
    except OverflowError:  # of a training that diverges, in float64
        message = message._replace(loss=as_sent(message.loss))
        _WRITE.pack_into(frame, 0, MAGIC, *message)
    _, _, _, flags, _, _, _, payload_bytes, _, _, _, _ = message  # names take three times as long
    covered = HEADER_BYTES if flags & FLAG_HEADER_ONLY else HEADER_BYTES + payload_bytes
    # A frame that is just full, which is most of them, needs no view.
    _CHECKSUM.pack_into(frame, _CHECKSUM_AT, _crc32c(frame if covered == len(frame) else frame[:covered]))
    return message


def check(frame: memoryview, expected: Mapping[Kind, Expected], *, rank: int) -> Message:
    """Read and verify the bytes that came from `rank`, all of them and no more.

    expected: what this end accepts, by kind. Raises WireError naming the first field that is off; nothing of such
    a message may be used.
    """
    if len(frame) < HEADER_BYTES:
        raise WireError(
            "length", f"{len(frame)} bytes received, a header has {HEADER_BYTES}", rank=rank, sequence=0
        )
    head = frame[:HEADER_BYTES].tobytes()  # bytes are compared and read in less time than a view
    message = message_of(_READ.unpack(head))
    kind, codec, bits, flags, _, _, _, payload_bytes, elements, _, _, _ = message
    accepted = expected.get(kind)
    if (
        accepted is None
        or (codec, bits, flags, elements)
        != (accepted.codec, accepted.bits, accepted.flags, accepted.elements)
        or payload_bytes != len(frame) - HEADER_BYTES
        or (payload_bytes != accepted.payload_bytes and not accepted.variable)
        or payload_bytes > accepted.payload_bytes
        or head[:4] != MAGIC
        or _CHECKSUM.unpack_from(head, _CHECKSUM_AT)[0] != _checksum(head, frame, accepted.flags)
    ):
        raise _what_is_wrong(frame, expected, rank)
    return message


def _what_is_wrong(frame: memoryview, expected: Mapping[Kind, Expected], rank: int) -> WireError:
    """The first field that is off, in a header of which one is.

    The checksum is taken as the header's own flags say, so that a sender of another configuration is told from
    damage.
    """
    m = message_of(_READ.unpack_from(frame))
    magic, received = frame[:4].tobytes(), len(frame) - HEADER_BYTES
    (said,) = _CHECKSUM.unpack_from(frame, _CHECKSUM_AT)

    def fault(field: str, detail: str) -> WireError:
        return WireError(field, detail, rank=rank, sequence=m.sequence)

    if magic != MAGIC:
        return fault("magic", f"{magic!r} is not {MAGIC!r}: not a message of this program or version")
    if m.payload_bytes != received:
        return fault("payload_bytes", f"header says {m.payload_bytes}, {received} arrived")
    if said != (found := checksum(frame, m.flags)):
        return fault("checksum", f"header says {said:#010x}, the bytes give {found:#010x}")
    accepted = expected.get(m.kind)
    if accepted is None:
        return fault("kind", f"{m.kind} is not expected here; expected {sorted(k.name for k in expected)}")
    for field in ("codec", "bits", "flags", "elements"):
        if getattr(m, field) != (wanted := getattr(accepted, field)):
            return fault(field, f"{getattr(m, field)}, this run uses {wanted}")
    return fault("payload_bytes", f"{received}, this run uses {accepted.payload_bytes}")
