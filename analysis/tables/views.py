"""Runs and settings as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qafel_analysis.read.energy import KINDS, NOT_MEASURED
from qafel_analysis.tables.compare import BASELINE, COUNTS, WAYS, Group, Run, baseline_of, label, saving
from qafel_analysis.tables.grid import NOTHING, Grid, number, size, spread, times

NEVER = "never"
SOME_CLIENTS = 8  # in a cell
MOST_BESIDE = 4  # settings as columns of a terminal
_WAY = {"up": "up", "down": "down, broadcast", "unicast": "down, unicast"}
_COUNT = {"payload": "payload", "wire": "wire", "paper": "paper's formula"}


def runs_grid(runs: Sequence[Run]) -> Grid:
    """One row a run; with a column of bits per byte where a run's data are text."""
    bits = ["bits per\nbyte"] if any(run["bits_per_byte"] is not None for run in runs) else []
    headings = (
        "run",
        "setting",
        "outcome",
        "seed",
        "uploads\nto target",
        "uploads",
        "server\nsteps",
        "accuracy",
        "loss",
        *bits,
        "up\npayload",
        "up\nwire",
        "down\npayload",
        "down\nlinks",
        "seconds",
        "rank 0's\nmemory",
    )
    rows = tuple(
        (
            Path(run["run"]).name,
            label(run),
            str(run["outcome"]),
            number(run["seed"]),
            uploads_to_target(run),
            number(run["uploads"]),
            number(run["server_steps"]),
            number(run["accuracy"]),
            number(run["loss"]),
            *[number(run["bits_per_byte"]) for _ in bits],
            size(run["payload_bytes_up"]),
            size(run["wire_bytes_up"]),
            size(run["payload_bytes_down"]),
            size(run["down_links"]),
            seconds(run),
            size(run["rank_0_memory_bytes"]),
        )
        for run in runs
    )
    return Grid("Runs: totals at their end", headings, rows, texts=3)


def faults_grid(runs: Sequence[Run]) -> Grid | None:
    """One row a kind of fault and run, of the runs that noticed any; None where none did."""
    rows = tuple(
        (Path(run["run"]).name, kind, number(count), fault_clients(run, kind))
        for run in runs
        for kind, count in run["fault_counts"].items()
    )
    return (
        Grid("Faults: what went wrong, and how often", ("run", "kind", "count", "of clients"), rows, texts=2)
        if rows
        else None
    )


def energy_grid(runs: Sequence[Run]) -> Grid | None:
    """One row a run: joules of processors and GPUs, or why there are none; None where no run was asked."""
    rows = tuple(
        (
            Path(run["run"]).name,
            *(joules(run, kind) for kind in KINDS),
            *(number(run[f"{kind}_joules_per_upload"]) for kind in KINDS),
            "; ".join(run["energy_notes"].values()),
        )
        for run in runs
        if run["energy_notes"] or run["cpu_joules"] is not None
    )
    headings = ("run", *(f"{name}\njoules" for name in KINDS.values()))
    headings += (*(f"{kind.upper()} joules\nper upload" for kind in KINDS), "why not")
    return Grid("Energy: what the machine's counters moved by", headings, rows, texts=1) if rows else None


def joules(run: Run, kind: str) -> str:
    """A run without a GPU has nothing to measure there."""
    if (found := run[f"{kind}_joules"]) is not None:
        return number(found)
    return NOT_MEASURED if kind in run["energy_notes"] else NOTHING


def fault_clients(run: Run, kind: str) -> str:
    """The clients that a kind of fault concerned, those with the most first, each with its number.

    >>> fault_clients({"fault_clients": {"update rejected": {7: 3, 2: 1}}}, "update rejected")
    '7 (3), 2 (1)'
    """
    by_client = run.get("fault_clients", {}).get(kind, {})
    some = ", ".join(
        f"{client} ({number(count)})" for client, count in list(by_client.items())[:SOME_CLIENTS]
    )
    more = len(by_client) - SOME_CLIENTS
    return f"{some}, and {number(more)} more" if more > 0 else some


def uploads_to_target(run: Run) -> str:
    if run["target"] is None:
        return "no target"
    return NEVER if run["uploads_to_target"] is None else number(run["uploads_to_target"])


def seconds(run: Run) -> str:
    return f"{number(run['virtual_seconds'])} virtual" if run["virtual_seconds"] else number(run["seconds"])


def reached(group: Group) -> str:
    """
    >>> whole, cut = ({"target": None, "outcome": outcome} for outcome in ("finished", "interrupted"))
    >>> reached(Group("a", (whole, whole))), reached(Group("a", (whole, cut)))
    ('2, no target', '1 of 2, no target')
    """
    counts = f"{len(group.reached)} of {len(group.runs)}"
    if group.target is not None:
        return counts
    return f"{counts if len(group.reached) < len(group.runs) else len(group.runs)}, no target"


RATIOS = (
    "Ratios: geometric means, seed by seed where both have the seeds; a run that missed its target counts with what "
    "it had spent, and makes the ratio a bound"
)
COUNTED = "Means ± standard deviations over the runs that reached the target or, without one, their end"


def costs_grid(groups: Sequence[Group]) -> Grid:
    """One row a setting: what it took to the target, and how many times less than FedBuff."""
    headings = (
        "setting",
        "target",
        "runs that\nreached it",
        "uploads",
        "server steps",
        "seconds",
        "accuracy",
        "mean\nstaleness",
        f"{BASELINE}'s uploads\n/ these [95%]",
        f"{BASELINE}'s bytes up\n/ these [95%]",
        f"{BASELINE}'s bytes down\n/ these [95%]",
    )
    rows = []
    for g in groups:
        baseline = baseline_of(g, groups)
        ratios = (
            times(saving(g, baseline, key)) if baseline else NOTHING
            for key in ("uploads", "payload_bytes_up", "payload_bytes_down")
        )
        rows.append(
            (
                g.label,
                g.target or "none",
                reached(g),
                spread(g.mean("uploads"), g.spread("uploads")),
                number(g.mean("server_steps")),
                spread(g.mean("seconds"), g.spread("seconds")) + (" virtual" if g.virtual else ""),
                spread(g.mean("accuracy"), g.spread("accuracy")),
                number(g.mean("mean_staleness")),
                *ratios,
            )
        )
    return Grid(f"Cost to the target. {COUNTED}. {RATIOS}. Bytes: payload", headings, tuple(rows))


def bytes_grid(groups: Sequence[Group]) -> Grid:
    """One row a setting: the bytes to the target, counted three ways."""
    headings = ("setting", *(f"{_WAY[way]}\n{_COUNT[count]}" for way in WAYS for count in COUNTS))
    rows = tuple(
        (g.label, *(size(g.mean(f"{count}_bytes_{way}")) for way in WAYS for count in COUNTS)) for g in groups
    )
    caption = (
        "Bytes to the target, means. Broadcast: each payload counts once per server step, as in the paper; "
        "unicast: each client downloads what it lacks when it starts"
    )
    return Grid(caption, headings, rows)


_SIDE_BY_SIDE = (
    ("uploads", "uploads", number),
    ("server steps", "server_steps", number),
    ("bytes up, payload", "payload_bytes_up", size),
    ("bytes up, wire", "wire_bytes_up", size),
    ("bytes up, paper's formula", "paper_bytes_up", size),
    ("bytes down, payload", "payload_bytes_down", size),
    ("bytes down, wire", "wire_bytes_down", size),
    ("bytes down, paper's formula", "paper_bytes_down", size),
    ("bytes down by unicast, payload", "payload_bytes_unicast", size),
    ("bytes down, sum over links", "down_links", size),
    ("seconds", "seconds", number),
)


def compared(groups: Sequence[Group], *, for_terminal: bool) -> list[Grid]:
    """Settings side by side. A terminal has room for few columns: of more settings each has a row."""
    if for_terminal and len(groups) > MOST_BESIDE:
        return [costs_grid(groups), bytes_grid(groups)]
    return [side_by_side(groups)]


def side_by_side(groups: Sequence[Group]) -> Grid:
    """Quantities as rows, settings as columns; last, how many times less each needed than FedBuff."""
    pairs = [(g, b) for g in groups if (b := baseline_of(g, groups))]
    headings = (
        "mean over runs that reached the target or, without one, their end",
        *(g.label for g in groups),
        *(f"{BASELINE} / {g.algorithm if len(pairs) == 1 else g.label} [95% interval]" for g, _ in pairs),
    )
    empty = ("",) * len(pairs)
    rows: list[tuple[str, ...]] = [
        ("target", *(g.target or "none" for g in groups), *empty),
        ("runs that reached it", *(reached(g) for g in groups), *empty),
        ("seeds", *(", ".join(str(r["seed"]) for r in g.runs) for g in groups), *empty),
    ]
    for title, key, show in _SIDE_BY_SIDE:
        rows.append(
            (title, *(show(g.mean(key)) for g in groups), *(times(saving(g, b, key)) for g, b in pairs))
        )
    rows.append(("accuracy", *(number(g.mean("accuracy")) for g in groups), *empty))
    return Grid(f"Settings side by side. {RATIOS}", headings, tuple(rows))
