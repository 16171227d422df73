"""Blocks about faults: what checkpoints cost."""

from __future__ import annotations

from docs.render.pages import table
from docs.render.records import RESULTS, content, digits, first, met, origin, time

MOST_SHARE = 1  # percent


def checkpoints() -> str:
    """A checkpoint's cost by parameters, and its share of a run."""
    if not _measured("checkpoint"):
        return _none("checkpoint")
    lines = []
    for row in content("checkpoint"):
        share = 100 * float(first(row, "share"))
        lines.append(
            (
                f"{row['parameters']['d']:,}",
                f"{first(row, 'bytes_moved') / 1e6:,.1f} MB",
                time(first(row, "held_us")),
                time(first(row, "write_us")),
                f"every {first(row, 'every_s'):,.0f} s",
                f"{digits(share, 2)}%",
                f"at most {MOST_SHARE}%, {met([share], MOST_SHARE, at_least=False)}",
            )
        )
    header = (
        "parameters",
        "a checkpoint",
        "the run stands still",
        "a thread writes",
        "by default",
        "share",
        "target",
    )
    return f"{table(header, lines, right=range(6))}\n\n{origin('checkpoint')}"


def _measured(name: str) -> bool:
    return (RESULTS / f"{name}.json").exists()


def _none(group: str) -> str:
    return f"Not measured yet. [measure.sh](results/measure.sh) does it (its group `{group}`)."
