"""The command that follows a run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from qafel_analysis.commands.options import NOTHING_READ, refuse, say

from qafel_mpi.trace.reader import TraceError

if TYPE_CHECKING:
    from qafel_analysis.watch import Follower, Progress
    from rich.console import RenderableType

_SLOWEST = 5  # ranks that are shown
_BETWEEN_RUNS_S = 15.0  # a suite builds its next run


def watch(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="A run's shards (RUN.shards), or a folder that contains some: then the latest run.",
            show_default=False,
        ),
    ],
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between updates.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show one update and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per update.")] = False,
    prometheus: Annotated[
        Path | None,
        typer.Option(
            "--prometheus",
            metavar="FILE",
            help="Also write each update to this file, NAME.prom, for node-exporter's textfile collector.",
        ),
    ] = None,
) -> None:
    """Follow a running job through its shards: accuracy, bytes, rates, the slowest ranks, and the time left.

    It works from any terminal or login node that sees the files, and does not disturb the run. What it shows is
    behind by the run's trace.flush_seconds. It ends when the run or the whole suite does, or with Ctrl-C.
    """
    from qafel_analysis.watch import Follower, newest

    if prometheus is not None and prometheus.suffix != ".prom":
        raise typer.BadParameter(f"--prometheus {prometheus}: node-exporter only reads files named NAME.prom")
    if prometheus is not None:
        refuse("--prometheus", prometheus)
    folder: Path | None = None
    followed: set[Path] = set()
    try:
        folder = newest(directory)
        while folder is not None:
            look = _look(Follower(folder), prometheus)
            if once or as_json:
                _lines(look, every, once, as_json)
            else:
                _screen(look, every)
            followed.add(folder)
            folder = None if once or directory == folder else _next(directory, followed)
    except TraceError as error:
        say([error])
        raise typer.Exit(NOTHING_READ) from error
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _next(directory: Path, followed: set[Path]) -> Path | None:
    """The run that comes after, of a suite or a job of several; None where none has begun after a while."""
    from qafel_analysis.watch import newest

    end_s = time.monotonic() + _BETWEEN_RUNS_S
    while time.monotonic() < end_s:
        try:
            return newest(directory, but=followed)
        except TraceError:
            time.sleep(0.5)
    return None


def _look(follower: Follower, prometheus: Path | None) -> Callable[[], Progress]:
    """What looks at the run, and tells node-exporter too."""
    if prometheus is None:
        return follower.poll
    from qafel_analysis.prometheus import write

    def look() -> Progress:
        now = follower.poll()
        write(now, prometheus)
        return now

    return look


def _lines(look: Callable[[], Progress], every: float, once: bool, as_json: bool) -> None:
    """One look after another, each on its own."""
    while True:
        now = look()
        print(json.dumps(now.as_json()) if as_json else in_words(now), flush=True)
        if once or now.outcome is not None:
            return
        time.sleep(every)


def _screen(look: Callable[[], Progress], every: float) -> None:
    """On a terminal one screen that is kept up to date; elsewhere a line a look."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if not console.is_terminal:
        _lines(look, every, once=False, as_json=False)
        return
    with Live(console=console, auto_refresh=False) as live:
        uploads, news_at = -1, time.monotonic()
        while True:
            now = look()
            if now.uploads != uploads:
                uploads, news_at = now.uploads, time.monotonic()
            live.update(_view(now, time.monotonic() - news_at), refresh=True)
            if now.outcome is not None:
                return
            time.sleep(every)


def in_words(now: Progress) -> str:
    """One line."""
    from qafel_analysis.tables.grid import size

    parts = [
        f"{now.run}: {clock(now.elapsed_s)}",
        f"uploads {now.uploads:,}",
        f"steps {now.server_steps:,}",
        f"accuracy {_number(now.accuracy)}",
        f"loss {_number(now.loss)}",
        f"up {size(now.payload_bytes_up)}, down {size(now.payload_bytes_down)}, wire {size(now.wire_bytes)}",
    ]
    if now.outcome is not None:
        return "  ".join([*parts, now.outcome])
    if now.uploads_per_second > 0:
        parts.append(f"{now.uploads_per_second:,.1f} uploads/s, {size(now.payload_bytes_per_second)}/s")
    if now.ranks:
        slow = now.ranks[0]
        parts.append(f"slowest: rank {slow.rank}, {slow.uploads_per_second:.1f} uploads/s")
    return "  ".join([*parts, *_left(now)])


def _left(now: Progress) -> list[str]:
    at_most = next((one for one in now.left if one.at_most), None)
    heading = [
        one for one in now.left if not one.at_most and (at_most is None or one.seconds < at_most.seconds)
    ]
    found = [f"left: at most {clock(at_most.seconds)} ({at_most.what})"] if at_most else []
    return found + [f"about {clock(one.seconds)} to {one.what}" for one in heading]


def clock(seconds: float) -> str:
    """
    >>> clock(7.25), clock(75), clock(7300), clock(float("nan"))
    ('7.2 s', '1:15 min', '2:01 h', '–')
    """
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


def _view(now: Progress, quiet_s: float) -> RenderableType:
    from qafel_analysis.tables.grid import size
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    about = Table(box=None, show_header=False, pad_edge=False)
    up, down, wire, rate = map(
        size, (now.payload_bytes_up, now.payload_bytes_down, now.wire_bytes, now.payload_bytes_per_second)
    )
    moving = now.uploads_per_second > 0
    rows = [
        ("run", now.run),
        ("elapsed", clock(now.elapsed_s)),
        ("virtual", "" if now.virtual_seconds is None else f"{now.virtual_seconds:,.1f} s"),
        ("uploads", f"{now.uploads:,} in {now.server_steps:,} server steps"),
        ("accuracy, loss", f"{_number(now.accuracy)}, {_number(now.loss)}"),
        ("bytes", f"up {up}, down {down}; wire {wire}"),
        ("rates", f"{now.uploads_per_second:,.1f} uploads/s, payload {rate}/s" if moving else ""),
        ("mean staleness", _number(now.mean_staleness)),
        ("dropped messages", f"{now.dropped_messages:,}" if now.dropped_messages else ""),
        ("faults", ", ".join(f"{kind} ({count:,})" for kind, count in now.faults.items())),
        ("time left", "; ".join(_left(now)).removeprefix("left: ") if now.outcome is None else ""),
        ("outcome", now.outcome or ""),
    ]
    for name, value in rows:
        if value:
            about.add_row(Text(name, style="bold"), Text(value))
    parts: list[RenderableType] = [about]
    if now.ranks and now.outcome is None:
        ranks = Table("slowest ranks", "uploads", "uploads/s", "silent", box=box.SIMPLE_HEAD)
        for rank in now.ranks[:_SLOWEST]:
            ranks.add_row(
                f"rank {rank.rank}",
                f"{rank.uploads:,}",
                f"{rank.uploads_per_second:.2f}",
                clock(rank.silent_s),
            )
        parts.append(ranks)
    if quiet_s > 30 and now.outcome is None:
        parts.append(
            Text(f"nothing new for {clock(quiet_s)}: if the run was killed, qafel-mpi merge recovers it")
        )
    return Group(*parts)
