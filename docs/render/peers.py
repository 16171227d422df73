"""A block of docs/results.md: other frameworks at the same work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docs.render.pages import table
from docs.render.records import NOTHING, content, digits, interval, origin, span, values
from qafel_mpi.bench.peers.environments import NAMES

OURS = "qafel_mpi"
MODELS = {"mlp": "digits' MLP", "cnn": "the paper's CNN"}
ALGORITHMS = {"fedavg": "FedAvg", "fedbuff": "FedBuff", "qafel": "QAFeL, 4 bits"}
ORDER = (*MODELS, *ALGORITHMS)


def peers() -> str:
    """Speed, memory, bytes and accuracy of ours and of each peer, by model, algorithm and cohort."""
    rows = sorted(content("peers"), key=_place)
    header = (
        "model", "algorithm", "cohort", "", "updates/s", "its time over ours", "peak memory", "bytes sent an update",
        "bytes reported", "accuracy", "its model and ours",
    )  # fmt: skip
    lines = [_ours(row) if "against" not in row["parameters"] else _peer(row) for row in rows]
    missing = sorted(set(NAMES) - {row["parameters"].get("against") for row in rows})
    said = f"Not measured yet, but there are recipes: {', '.join(missing)}.\n\n" if missing else ""
    return f"{table(header, lines, right=range(4, 10))}\n\n{said}{origin('peers')}"


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    p = row["parameters"]
    return ORDER.index(p["model"]), ORDER.index(p["algorithm"]), p["cohort"], p.get("against", "")


def _ours(row: Any) -> tuple[str, ...]:
    return (*_about(row), f"**{OURS}**", *_speed(row, "updates_per_s"), NOTHING, *_rest(row, ""), NOTHING)


def _peer(row: Any) -> tuple[str, ...]:
    ratio = _ratio(row)
    name = row["parameters"]["against"]
    return (*_about(row), name, *_speed(row, "peer_updates_per_s"), ratio, *_rest(row, "peer_"), _alike(row))


def _ratio(row: Any) -> str:
    """The median over rounds of the two times of a round; of one launch with its interval."""
    if len(row["launches"]) > 1:
        return span(values(row, "ratio"))
    one = row["launches"][0]
    return interval([one["ratio"], *one["ratio_ci95"]])


def _about(row: Any) -> tuple[str, str, str]:
    p = row["parameters"]
    return MODELS[p["model"]], ALGORITHMS[p["algorithm"]], str(p["cohort"])


def _speed(row: Any, column: str) -> tuple[str]:
    return (span(values(row, column)),)


def _rest(row: Any, prefix: str) -> tuple[str, str, str, str]:
    one = row["launches"][-1]

    def count(name: str) -> str:
        value = one.get(f"{prefix}{name}")
        return NOTHING if value is None else f"{value:,.0f}"

    accuracy = f"{one[f'{prefix}accuracy']:.2f}"
    return f"{one[f'{prefix}peak_mb']:,.0f} MB", count("sent_bytes"), count("reported_bytes"), accuracy


def _alike(row: Any) -> str:
    """Whether the peer did the same work."""
    one = row["launches"][-1]
    if not one["comparable"]:
        return "void: it learned something else"
    return "equal but for rounding" if one["apart"] < 1e-3 else f"as good; {digits(one['apart'], 1)} apart"
