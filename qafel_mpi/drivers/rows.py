"""Rows of /messages from what the transport reports; the places of updates in /updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qafel_mpi.transport.frames import Sent
from qafel_mpi.transport.inbox import Received
from qafel_mpi.wire import HEADER_BYTES, Message

NAN = float("nan")
SENDER, RECEIVER = 0, 1


def sent_row(sent: Sent, src: int) -> tuple[Any, ...]:
    """The sender's row. A synchronous send completes when it is matched: t_matched = t_complete.

    What a GPU has encoded was done at t_encode_end or before: the sender looks between two SGD steps.
    """
    kind, codec, bits, _, client, version, sequence, payload_bytes, _, _, _, _ = sent.message
    f = sent.frame
    return (
        SENDER, kind, codec, bits, 0, src, sent.rank, client, version, sequence,
        payload_bytes, HEADER_BYTES + payload_bytes, f.t_encode_begin, f.t_encode_end,
        sent.t_post, sent.t_complete, sent.t_complete if sent.matched else NAN, NAN, NAN,
    )  # fmt: skip


def received_row(received: Received, m: Message, dst: int, begin_s: float, end_s: float) -> tuple[Any, ...]:
    """The receiver's row; begin_s, end_s: when its payload was checked and decoded (on a GPU: handed to it)."""
    kind, codec, bits, _, client, version, sequence, payload_bytes, _, _, _, _ = m
    return (
        RECEIVER, kind, codec, bits, 0, received.source, dst, client, version, sequence,
        payload_bytes, HEADER_BYTES + payload_bytes, NAN, NAN,
        received.t_post, received.t_complete, NAN, begin_s, end_s,
    )  # fmt: skip


def dropped_row(received: Received, sequence: int, dst: int) -> tuple[Any, ...]:
    """A message that failed wire.check: nothing of it was used."""
    return (
        RECEIVER, 0, 0, 0, 1, received.source, dst, 0, 0, sequence & (2**63 - 1),
        max(0, received.wire_bytes - HEADER_BYTES), received.wire_bytes, NAN, NAN,
        received.t_post, received.t_complete, NAN, NAN, NAN,
    )  # fmt: skip


def places(weights: Sequence[float], filled: int) -> list[int]:
    """/updates' order of updates that the server has just received; −1 where one was not used.

    filled: uploads in the server's buffer, these included.

    >>> places([1.0, 0.0, 0.5], filled=4)
    [2, -1, 3]
    """
    place = filled - sum(1 for weight in weights if weight)
    found = []
    for weight in weights:
        found.append(place if weight else -1)
        place += 1 if weight else 0
    return found
