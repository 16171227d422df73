"""What the command shows: progress on stderr, results on stdout."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qafel_mpi.config import StopConfig
    from qafel_mpi.drivers.build import Progress, RunSummary

PLAIN_SECONDS = 2.0  # between plain lines of progress
RUN_SCHEMA_VERSION = 1  # of `run --json`: schemas/run.json


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned columns under their keys; what is a number goes to the right."""
    if not rows:
        return ""
    keys = list(rows[0])
    cells = [keys, *([_cell(row[key]) for key in keys] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(keys))]
    right = [isinstance(rows[0][key], int | float) for key in keys]
    lines = (
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        )
        for line in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def megabytes(size: float) -> str:
    """Bytes for people, in units of a thousand.

    >>> megabytes(117_128), megabytes(12), megabytes(999_960)
    ('117.1 kB', '12 B', '1.0 MB')
    """
    if size < 1000:
        return f"{size:.0f} B"
    for unit, factor in (("kB", 1e3), ("MB", 1e6)):
        if round(size / factor, 1) < 1000:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e9:.1f} GB"


def summary(result: RunSummary) -> str:
    """A run's result, a line each. The three byte counts are never added to each other."""
    lines: list[tuple[str, str]] = [
        ("outcome", result.outcome),
        ("algorithm", f"{result.algorithm}, seed {result.seed}"),
        ("uploads", f"{result.uploads:,}"),
        ("server steps", f"{result.server_steps:,}"),
        ("accuracy", "-" if math.isnan(result.accuracy) else f"{result.accuracy:.4f}"),
        ("loss", f"{result.loss:.6g}"),
        ("bytes up", _bytes(result.payload_bytes_up, result.wire_bytes_up, result.paper_bytes_up)),
        ("bytes down", _bytes(result.payload_bytes_down, result.wire_bytes_down, result.paper_bytes_down)),
        ("seconds", f"{result.seconds:.2f}"),
        ("trace", result.trace or "none could be written"),
        ("x digest", result.x_digest),
    ]
    if not math.isnan(result.bits_per_byte):
        text = f"{result.bits_per_byte:.3f}   byte frequencies alone {result.entropy_bits_per_byte:.3f}"
        lines.insert(6, ("bits per byte", text))
    if result.virtual_seconds:
        lines.insert(-2, ("virtual seconds", f"{result.virtual_seconds:.2f}"))
    for name in ("dropped_messages", "rejected_updates", "clipped_updates", "lost_ranks"):
        if count := getattr(result, name):
            lines.insert(-2, (name.replace("_", " "), f"{count:,}"))
    return "\n".join(f"{name:<17}{text}" for name, text in lines)


def _bytes(payload: int, wire: int, paper: float) -> str:
    return f"payload {payload:,}   wire {wire:,}   paper's formula {paper:,.0f}"


def summary_json(result: RunSummary) -> str:
    """The same, every field by its name; null where there is no number. schemas/run.json describes it."""
    fields = {"schema_version": RUN_SCHEMA_VERSION, **asdict(result)}
    none = {k for k, v in fields.items() if isinstance(v, float) and not math.isfinite(v)}
    return json.dumps({k: None if k in none else v for k, v in fields.items()})


@contextmanager
def progress(stop: StopConfig, name: str) -> Iterator[Callable[[Progress], None]]:
    """A callback that shows how far a run is: a bar on a terminal, plain lines elsewhere (a job's log)."""
    if sys.stderr.isatty():
        yield from _bar(stop, name)
    else:
        yield _plain_lines(name)


def _bar(stop: StopConfig, name: str) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(16), TextColumn("{task.fields[state]}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=1.0, state="starting")
        yield lambda now: bar.update(task, completed=share_done(now, stop), state=_short(now))


def _plain_lines(name: str) -> Callable[[Progress], None]:
    due_s = 0.0

    def show(now: Progress) -> None:
        nonlocal due_s
        if time.monotonic() >= due_s:
            due_s = time.monotonic() + PLAIN_SECONDS
            print(f"{name}: {now.seconds:.1f} s  {_state(now)}", file=sys.stderr, flush=True)

    return show


def _short(now: Progress) -> str:
    """What fits beside a bar on 80 columns."""
    quality = f"loss {now.loss:.4f}" if math.isnan(now.accuracy) else f"accuracy {now.accuracy:.3f}"
    return f"{now.uploads:,} uploads  {quality}  up {megabytes(now.payload_bytes_up)}"


def _state(now: Progress) -> str:
    accuracy = "" if math.isnan(now.accuracy) else f"accuracy {now.accuracy:.3f}  "
    moved = f"up {megabytes(now.payload_bytes_up)}  down {megabytes(now.payload_bytes_down)}"
    loss = f"loss {now.loss:.4f}" if math.isnan(now.bits_per_byte) else f"bits/byte {now.bits_per_byte:.3f}"
    return f"uploads {now.uploads:,}  steps {now.server_steps:,}  {accuracy}{loss}  {moved}"


def share_done(now: Progress, stop: StopConfig) -> float:
    """How much of the budget is spent: of uploads, steps or seconds, whichever is nearest to its end."""
    spent = ((now.uploads, stop.uploads), (now.server_steps, stop.steps), (now.seconds, stop.seconds))
    return max((done / limit for done, limit in spent if limit), default=0.0)


@contextmanager
def download() -> Iterator[Callable[[str, int, int | None], None]]:
    """A callback (file, bytes so far, bytes in all) that shows a download: bars, or a line a file."""
    if not sys.stderr.isatty():
        yield _download_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def show(name: str, have: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name)
            bars.update(tasks[name], completed=have, total=total)

        yield show


def _download_lines() -> Callable[[str, int, int | None], None]:
    said: set[str] = set()

    def show(name: str, have: int, total: int | None) -> None:
        if name not in said:
            said.add(name)
            size = "" if total is None else f", {megabytes(total)}"
            print(f"downloading {name}{size}", file=sys.stderr, flush=True)

    return show
