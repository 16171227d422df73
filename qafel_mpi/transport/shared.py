"""Is the run's folder one folder on all hosts? Asked before the first step: at the end it would cost the trace."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

LOOK_SECONDS = 5.0  # a network file system may show a new file only after a while


def mark_path(out: Path, rank: int) -> Path:
    """Where a rank leaves its mark: beside the trace, and of this run alone."""
    return out.with_name(f".{out.stem}.rank{rank:06d}")


def leave_mark(out: Path, rank: int, text: str) -> str:
    """Write `text` where rank 0 will look for it. Returns why that can't be done, or an empty string.

    A folder that is not there yet may be one that rank 0 has just made.
    """
    deadline_s = time.monotonic() + LOOK_SECONDS
    while True:
        try:
            mark_path(out, rank).write_text(text, encoding="utf-8")
            return ""
        except OSError as error:
            if not isinstance(error, FileNotFoundError) or time.monotonic() > deadline_s:
                return error.strerror or type(error).__name__
        time.sleep(0.05)


def take_mark(out: Path, rank: int) -> None:
    with suppress(OSError):  # a mark that stays harms nobody
        mark_path(out, rank).unlink(missing_ok=True)


def is_seen(out: Path, rank: int, text: str, *, patience_s: float = LOOK_SECONDS) -> bool:
    """Whether that rank's mark lies in this host's folder too, with that text."""
    path = mark_path(out, rank)
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            if path.read_text(encoding="utf-8") == text:
                return True
        except OSError:
            pass
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
