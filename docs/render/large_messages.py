"""The block of docs/footguns.md on messages above 2^31 − 1 bytes."""

from __future__ import annotations

from docs.render.pages import table
from docs.render.records import content, digits, measured, not_measured, origin

PARTS = {
    "upload": "an upload, from a client to rank 0",
    "fanout": "a broadcast, `fanout`",
    "tree": "a broadcast, `tree`",
    "ibcast": "a broadcast, `ibcast`",
}


def large() -> str:
    """Each way with its seconds, what was wrong, and the memory of both ends in messages."""
    names = {part: f"large-message-{part}" for part in PARTS if measured(f"large-message-{part}")}
    if not names:
        return not_measured("large-message")
    found = {part: content(name) for part, name in names.items()}
    lines = [
        (
            PARTS[part],
            f"{one['message_bytes']:,}",
            f"{one['seconds']:.0f} s",
            f"{one['wrong']:,}",
            *(digits(more, 2) for more in one["messages"]),
        )
        for part, one in found.items()
    ]
    header = ("", "bytes", "time", "wrong elements", "messages in rank 0's memory", "in rank 1's")
    return f"{table(header, lines, right=range(1, 6))}\n\n{origin(*names.values())}"
