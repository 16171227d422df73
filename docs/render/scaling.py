"""Blocks of docs/results.md: many ranks on few cores, and what a model makes of it."""

from __future__ import annotations

from typing import Any

from qafel_analysis.tables.grid import size

from docs.render.pages import table
from docs.render.records import content, digits, one, origin, ranged, record, time

_STUDIES = {"strong": "scaling-strong", "weak": "scaling-weak"}


def measured() -> str:
    """Updates per second by ranks, of both studies on the wall clock."""
    found = {
        study: {row["ranks"]: row for row in content(name)["measured"] if row["driver"] == "wall"}
        for study, name in _STUDIES.items()
    }
    lines = [
        (ranks, ranks - 1, *(cell for rows in found.values() for cell in _rate(rows[ranks])))
        for ranks in sorted(found["strong"])
    ]
    columns = (f"{study}, {what}" for study in found for what in ("updates per second", "efficiency"))
    header = ("ranks", "clients", *columns)
    return f"{table(header, lines, right=range(6))}\n\n{origin(*_STUDIES.values())}"


def _rate(row: dict[str, Any]) -> tuple[str, str]:
    return digits(row["updates_per_second"]), f"{row['efficiency']:.0%}"


def model() -> str:
    """Rank 0's costs carried to ranks that nobody measured."""
    loads = {study: content(name)["paper"]["loads"] for study, name in _STUDIES.items()}
    lines = []
    for strong, weak in zip(loads["strong"], loads["weak"], strict=True):
        if strong["ranks"] < 1_000:
            continue
        lines.append(
            (
                f"{strong['ranks']:,}",
                _share(_rank_0(strong)),
                _share(strong["posting"]),
                _share(strong["link_out"]),
                f"{strong['efficiency']:.0%}",
                _share(_rank_0(weak)),
                f"{weak['efficiency']:.0%}",
            )
        )
    header = (
        "ranks",
        "K = 10: rank 0 busy",
        "of it posting broadcasts",
        "its link out",
        "efficiency",
        "K = clients: rank 0 busy",
        "efficiency",
    )
    text = " ".join(_costs(study, name) for study, name in _STUDIES.items())
    commands = "; ".join(
        f"`{record(name)['command'].partition(' --record')[0]}`" for name in _STUDIES.values()
    )
    names = _STUDIES.values()
    return f"{table(header, lines, right=range(7))}\n\n{text} Analysis: {commands}.\n\n{origin(*names)}"


def _rank_0(load: dict[str, Any]) -> float:
    return float(load["receiving"] + load["encoding"] + load["posting"])


def _share(value: float) -> str:
    """
    >>> _share(0.0391), _share(3.344)
    ('3.9%', '334%')
    """
    return f"{100 * value:.1f}%" if value < 1 else f"{100 * value:,.0f}%"


def _costs(study: str, name: str) -> str:
    paper = content(name)["paper"]
    costs, first = paper["costs"], paper["saturates"]
    receive, encode, post = (time(1e6 * costs[key]) for key in ("receive_s", "encode_s", "post_s"))
    return (
        f"Costs from the {study} study at {costs['ranks']} ranks: {receive} for an upload received, {encode} for a "
        f"server step, {post} for each link of a broadcast posted. First to saturate: {first['what']}, at "
        f"{first['ranks']:,} ranks."
    )


def many_ranks() -> str:
    """A run of a minute with far more ranks than cores."""
    (run,) = content("many-ranks")
    lines = [
        ("ranks", str(run["ranks"])),
        ("uploads that rank 0 took", f"{run['uploads']:,} in {digits(run['seconds'])} s"),
        ("uploads per second", f"{run['uploads'] / run['seconds']:,.0f}"),
        ("server steps", f"{run['server_steps']:,}"),
        ("largest memory of rank 0", size(run["rank_0_memory_bytes"])),
        (
            "its growth, from the middle third of the run to the last third",
            size(run["rank_0_memory_growth_bytes"]) if run["rank_0_memory_growth_bytes"] else "none",
        ),
    ]
    return f"{table(('', 'measured'), lines, right=(1,))}\n\n{origin('many-ranks')}"


def progress() -> str:
    """Where a client applies broadcasts."""
    words = {
        "progress-poll": 'between two SGD steps (`"poll"`)',
        "progress-thread": 'on a thread (`"thread"`)',
    }
    lines = []
    for name, where in words.items():
        found = content(name)["algorithms"]["qafel"]
        lines.append((where, *(ranged(found[key]) for key in ("per_step", "train", "upload"))))
    header = (
        "a client applies broadcasts",
        "seconds per server step",
        "training of one update, s",
        "upload latency, s",
    )
    return f"{table(header, lines, right=(1, 2, 3))}\n\n{origin(*words)}"


def shared_data() -> str:
    """One data set on one host: a copy for each rank, and one copy for all."""
    lines = []
    for way, words in (("a copy a rank", "a copy for each rank"), ("one copy a host", "one copy for all")):
        row = one("shared-data", operation=way)
        (launch,) = row["launches"]
        lines.append(
            (
                words,
                f"{launch['pss_mb']:,.0f} MB",
                f"{launch['pss_mb_a_rank']:,.0f} MB",
                time(launch["median_us"]),
            )
        )
    p, data = row["parameters"], launch["data_mb"]
    header = (
        f"{p['ranks']} ranks, {data:,.0f} MB of data",
        "memory of all ranks",
        "for each rank",
        "until the slowest rank has the data",
    )
    return f"{table(header, lines, right=(1, 2, 3))}\n\n{origin('shared-data')}"
