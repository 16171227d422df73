"""The report's tables as HTML: cells that are read, and beside each the value that it sorts by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from operator import itemgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

from qafel_analysis.figures.collect import Detail
from qafel_analysis.read.energy import KINDS
from qafel_analysis.tables import messages, views
from qafel_analysis.tables.compare import BASELINE, COUNTS, WAYS, Group, Run, baseline_of, label, saving
from qafel_analysis.tables.grid import NOTHING, duration, number, size, spread, times

T = TypeVar("T")
_LONG = 24  # characters of a cell that wants a wide column


@dataclass(frozen=True)
class Column(Generic[T]):
    """text: what is read. value: what it sorts by, the text itself where left out; None sorts last."""

    heading: str
    text: Callable[[T], str]
    value: Callable[[T], float | None] | None = None


def html(name: str, caption: str, columns: Sequence[Column[T]], rows: Sequence[T]) -> str:
    """A table with a field that filters its rows and headings that sort them. Everything is escaped."""
    heads = "".join(
        f'<th scope="col" aria-sort="none"{" class=n" if c.value else ""}>'
        f'<button type="button">{escape(c.heading)}</button></th>'
        for c in columns
    )
    body = "".join("<tr>" + "".join(_cell(c, row) for c in columns) + "</tr>\n" for row in rows)
    search = (
        f'<label class="filter">Filter <input type="search" data-table="{escape(name)}" '
        f'placeholder="words, all of which a row has"></label><output data-count="{escape(name)}">'
        f"{len(rows):,} rows</output>"
        if len(rows) > 1
        else ""
    )
    return (
        f'<div class="bar">{search}</div><div class="scroll" tabindex="0"><table id="{escape(name)}">'
        f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>\n{body}</tbody></table></div>"
    )


def _cell(column: Column[T], row: T) -> str:
    text = escape(column.text(row))
    if column.value is None:
        return f"<td{' class=long' if len(text) > _LONG else ''}>{text}</td>"
    value = column.value(row)
    at = "" if value is None or value != value else f' data-v="{value:.12g}"'
    return f"<td class=n{at}>{text}</td>"


# --- settings ---------------------------------------------------------------------------------------


def costs(groups: Sequence[Group]) -> str:
    """One row a setting: what it took to the target, and how many times less than FedBuff."""

    def ratio(key: str) -> Column[Group]:
        found = {id(g): saving(g, b, key) for g in groups if (b := baseline_of(g, groups))}
        what = key.removeprefix("payload_").replace("_", " ")
        return Column(
            f"{BASELINE}’s {what} / these [95%]",
            lambda g: times(found.get(id(g))),
            lambda g: r.value if (r := found.get(id(g))) else None,
        )

    columns: list[Column[Group]] = [
        Column("setting", lambda g: g.label),
        Column("target", lambda g: g.target or "none"),
        Column("runs that reached it", views.reached, lambda g: len(g.reached) / len(g.runs)),
        _mean("uploads"),
        _mean("server_steps"),
        Column(
            "seconds",
            lambda g: spread(g.mean("seconds"), g.spread("seconds")) + (" virtual" if g.virtual else ""),
            lambda g: g.mean("seconds"),
        ),
        _mean("accuracy"),
        _mean("mean_staleness"),
        *(ratio(key) for key in ("uploads", "payload_bytes_up", "payload_bytes_down")),
    ]
    caption = f"Cost to the target. {views.COUNTED}. {views.RATIOS}. Bytes: payload"
    return html("costs", caption, columns, groups)


def _mean(key: str) -> Column[Group]:
    return Column(key.replace("_", " "), lambda g: spread(g.mean(key), g.spread(key)), lambda g: g.mean(key))


def byte_counts(groups: Sequence[Group]) -> str:
    """One row a setting: the bytes to the target, counted three ways."""
    ways = {"up": "up", "down": "down, broadcast", "unicast": "down, unicast"}

    def column(way: str, count: str) -> Column[Group]:
        key = f"{count}_bytes_{way}"
        heading = f"{ways[way]}: {'paper’s formula' if count == 'paper' else count}"
        return Column(heading, lambda g: size(g.mean(key)), lambda g: g.mean(key))

    columns = [Column("setting", lambda g: g.label), *(column(w, c) for w in WAYS for c in COUNTS)]
    caption = (
        "Bytes to the target, means. Broadcast: a payload counts once per server step, as in the paper; unicast: "
        "each client downloads what it lacks when it starts"
    )
    return html("bytes-table", caption, columns, groups)


# --- runs -------------------------------------------------------------------------------------------


def runs(found: Sequence[Run]) -> str:
    """One row a run: its totals."""

    def plain(key: str) -> Column[Run]:
        return Column(key.replace("_", " "), lambda r: number(r[key]), lambda r: r[key])

    def sized(key: str, heading: str) -> Column[Run]:
        return Column(heading, lambda r: size(r[key]), lambda r: r[key])

    columns: list[Column[Run]] = [
        Column("run", lambda r: Path(r["run"]).name),
        Column("setting", label),
        Column("outcome", lambda r: str(r["outcome"]) if r["outcome"] else NOTHING),
        plain("seed"),
        Column("uploads to target", views.uploads_to_target, lambda r: r["uploads_to_target"]),
        *(plain(key) for key in ("uploads", "server_steps", "accuracy", "loss", "mean_staleness")),
        sized("payload_bytes_up", "up, payload"),
        sized("wire_bytes_up", "up, wire"),
        sized("payload_bytes_down", "down, payload"),
        sized("down_links", "down, all links"),
        Column("seconds", views.seconds, lambda r: r["virtual_seconds"] or r["seconds"]),
        plain("ranks"),
        plain("dropped_messages"),
        plain("rejected_updates"),
        plain("clipped_updates"),
        sized("rank_0_memory_bytes", "rank 0's memory"),
    ]
    return html("runs-table", "Runs: totals at their end", columns, found)


def faults(found: Sequence[Run]) -> str:
    """One row a kind of fault and run; empty where no run noticed any."""
    rows = [(run, kind, count) for run in found for kind, count in run["fault_counts"].items()]
    columns: list[Column[tuple[Run, str, int]]] = [
        Column("run", lambda r: Path(r[0]["run"]).name),
        Column("kind", lambda r: r[1]),
        Column("count", lambda r: number(r[2]), lambda r: r[2]),
        Column("of clients", lambda r: views.fault_clients(r[0], r[1])),
    ]
    return html("faults-table", "Faults: what went wrong, and how often", columns, rows) if rows else ""


def energy(found: Sequence[Run]) -> str:
    """One row a run that energy was looked for in; empty where there is none."""
    rows = [run for run in found if run["energy_notes"] or run["cpu_joules"] is not None]

    def plain(key: str, heading: str) -> Column[Run]:
        return Column(heading, lambda r: number(r[key]), lambda r: r[key])

    columns: list[Column[Run]] = [Column("run", lambda r: Path(r["run"]).name)]
    for kind, name in KINDS.items():
        key = f"{kind}_joules"
        columns += [
            Column(f"{name}, joules", partial(views.joules, kind=kind), itemgetter(key)),
            plain(f"{key}_per_upload", f"{name}, joules per upload"),
        ]
    columns.append(Column("why not", lambda r: "; ".join(r["energy_notes"].values())))
    return html("energy-table", "Energy: what the machine's counters moved by", columns, rows) if rows else ""


def tails(details: Sequence[Detail]) -> str:
    """One row a kind of message and run: medians and tails of their times; empty where no run has messages."""
    rows = [row | {"run": d.name} for d in details for row in messages.kinds(d.traffic, d.name)]

    def timed(key: str, heading: str) -> Column[dict[str, Any]]:
        return Column(heading, lambda r: duration(r[key]), lambda r: r[key])

    columns: list[Column[dict[str, Any]]] = [
        Column("run", lambda r: str(r["run"])),
        Column("kind", lambda r: str(r["kind"])),
        Column("sent", lambda r: number(r["sent"]), lambda r: r["sent"]),
        *(timed(f"send_{name}_s", f"send, {words}") for name, words in _SHARES.items()),
        *(timed(f"latency_{name}_s", f"latency, {words}") for name, words in _SHARES.items()),
        timed("clock_error_s", "clock error"),
    ]
    caption = (
        "Times of messages. Send: from post to completion at the sender, of all. Latency: from post to arrival, in a "
        f"sample; {NOTHING} where the clocks can't tell it"
    )
    return html("tails-table", caption, columns, rows) if rows else ""


_SHARES = {"median": "p50", "p99": "p99", "p999": "p99.9"}


def facts(rows: Sequence[tuple[str, Any]]) -> str:
    """A list of names and values."""
    return (
        "<dl>"
        + "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in rows)
        + "</dl>"
    )
