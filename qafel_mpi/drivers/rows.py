"""Rows of /messages from what the transport reports."""

from __future__ import annotations

from typing import Any

from qafel_mpi.transport.frames import Received, Sent
from qafel_mpi.wire import Message

NAN = float("nan")
SENDER, RECEIVER = 0, 1


def sent_row(sent: Sent, src: int) -> tuple[Any, ...]:
    """The sender's row. A synchronous send completes when it is matched: t_matched = t_complete."""
    m, f = sent.message, sent.frame
    return (
        SENDER, m.kind, m.codec, m.bits, 0, src, sent.rank, m.client, m.version, m.sequence,
        m.payload_bytes, m.wire_bytes, f.t_encode_begin, f.t_encode_end,
        sent.t_post, sent.t_complete, sent.t_complete if sent.matched else NAN, NAN, NAN,
    )  # fmt: skip


def received_row(received: Received, m: Message, dst: int, begin_s: float, end_s: float) -> tuple[Any, ...]:
    """The receiver's row; begin_s, end_s: when its payload was checked and decoded."""
    return (
        RECEIVER, m.kind, m.codec, m.bits, 0, received.source, dst, m.client, m.version, m.sequence,
        m.payload_bytes, m.wire_bytes, NAN, NAN,
        received.t_post, received.t_complete, NAN, begin_s, end_s,
    )  # fmt: skip


def dropped_row(received: Received, sequence: int, dst: int) -> tuple[Any, ...]:
    """A message that failed wire.check: nothing of it was used."""
    return (
        RECEIVER, 0, 0, 0, 1, received.source, dst, 0, 0, sequence & (2**63 - 1),
        max(0, received.wire_bytes - 64), received.wire_bytes, NAN, NAN,
        received.t_post, received.t_complete, NAN, NAN, NAN,
    )  # fmt: skip
