"""Blocks of docs/replay.md: what digests cost."""

from __future__ import annotations

from docs.render.pages import table
from docs.render.records import first, one, origin, values


def digests() -> str:
    """The digest of an upload as a share of rank 0's work for it."""
    lines = []
    for size, words in ((15_001, "15 kB"), (5_900_003, "5.9 MB")):
        row = one("digests", operation="digest", bytes=size)
        share = 100 * first(row, "share")
        met = "met" if share <= 1 else "missed"
        lines.append(
            (
                f"upload of {words}",
                f"{values(row, 'median_us')[0]:.3g} µs",
                f"{first(row, 'work_us'):,.0f} µs",
                f"{share:.1f}%",
                f"at most 1%: {met}",
            )
        )
    header = ("", "digest", "rank 0's work, without evaluations", "share", "target")
    return f"{table(header, lines, right=(1, 2, 3))}\n\n{origin('digests')}"
