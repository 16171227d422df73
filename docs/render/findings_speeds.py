"""A block of docs/findings.md on clients of different speeds: what they cost, and who counts for too little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from docs.render.pages import table
from docs.render.records import content, digits
from docs.render.verdicts import (
    Finding,
    Interval,
    at_least,
    at_most,
    every,
    judged,
    mean,
    needed,
    pick,
    shown,
    spread,
    times,
    within,
)

SPREADS = (0.0, 0.5, 1.0, 2.0)
WEIGHTS = {"constant": "1", "polynomial": "1/√(1 + τ)", "rate": "by the time it took"}
FOLLOWS = {"apart": "no", "labels": "yes"}  # whether speed follows the labels
CLASSES = 3  # of the fastest clients, and of the slowest; digits has ten, and clients are numbered by label
RECORDS = ("findings-spreads", "findings-speeds")
Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # variant -> its runs, in the order of seeds


def speeds() -> Finding:
    """Speeds spread log-normally, alone and along the labels, by weight."""
    spreads, runs = _spreads(), _runs()
    lag = {name: _lag(runs, name) for name in runs}
    behind = [b - a for a, b in zip(lag["qafel-apart-constant"], lag["qafel-labels-constant"], strict=True)]
    half = [b - 0.5 * a for a, b in zip(lag["qafel-labels-constant"], lag["qafel-labels-rate"], strict=True)]
    weighted = times(
        *(
            [_share(run, "weights") for run in runs[f"qafel-labels-{name}"]]
            for name in ("polynomial", "constant")
        )
    )
    gaps = [a - b for a, b in zip(lag["qafel-labels-constant"], lag["fedbuff-labels-constant"], strict=True)]
    checks = (
        every(
            "At one mean concurrency QAFeL at 4/4 bits needs at most 1.2 times FedBuff's uploads at every spread",
            {
                f"σ = {sigma:g}": (found, at_most(found, 1.2))
                for sigma, one in spreads.items()
                for found in [needed(one["qafel"])]
            },
        ),
        judged(
            "Where all clients always train, the slowest fifth has at most half of its share of the uploads",
            mean([_share(run, "uploads") for run in runs["qafel-labels-constant"]]),
            at_most,
            0.5,
        ),
        judged(
            "Weights by staleness give it less still: its weight with them over that without is at most 1",
            weighted,
            at_most,
            1.0,
        ),
        judged(
            "Weights by the time of a training give it its share, within 20%",
            mean([_share(run, "weights") for run in runs["qafel-labels-rate"]]),
            lambda found, bound: found and within(found, 1 - bound, 1 + bound),
            0.2,
        ),
        judged(
            "Where speed follows the labels, the model lags on the slow clients' classes by at least 5 points more",
            mean(behind),
            at_least,
            5.0,
        ),
        judged(
            "Weights by time take back half of that lag: the lag with them, less half of that without, is at most 0",
            mean(half),
            at_most,
            0.0,
        ),
        judged(
            "QAFeL's lag is FedBuff's, within 2 points",
            mean(gaps),
            lambda found, bound: found and within(found, -bound, bound),
            2.0,
        ),
    )
    return Finding(checks, f"{_spreads_table(spreads)}\n\n{_weights_table(runs, lag)}", RECORDS)


def _spreads() -> dict[float, dict[str, Mapping[str, Any]]]:
    found = content("findings-spreads")
    return {
        sigma: {
            name: pick(found, name, f"clock.duration.speed_sigma = {sigma}") for name in ("qafel", "fedbuff")
        }
        for sigma in SPREADS
    }


def _runs() -> Runs:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for run in sorted(content("findings-speeds"), key=lambda run: run["seed"]):
        found.setdefault(run["variant"], []).append(run)
    return found


def _share(run: Mapping[str, Any], of: str) -> float:
    """The slowest fifth's share over its share of the clients."""
    return float(run["slowest"][of] / run["slowest"]["clients"])


def _lag(runs: Runs, name: str) -> list[float]:
    """Accuracy on the first classes, those of the fast clients, less that on the last, in points; of each seed."""
    found = [run["accuracy_by_class"] for run in runs[name]]
    return [100 * (fmean(one[:CLASSES]) - fmean(one[-CLASSES:])) for one in found]


def _spreads_table(spreads: Mapping[float, Mapping[str, Mapping[str, Any]]]) -> str:
    lines = [
        (
            f"{sigma:g}",
            *(spread(one[name], "uploads") for name in ("fedbuff", "qafel")),
            shown(needed(one["qafel"])),
        )
        for sigma, one in spreads.items()
    ]
    header = ("σ of log speed", "uploads, FedBuff", "QAFeL 4/4", "QAFeL / FedBuff [95%]")
    return table(header, lines, right=range(4))


def _weights_table(runs: Runs, lag: Mapping[str, Sequence[float]]) -> str:
    lines = []
    for name, own in runs.items():
        algorithm, follows, weight = name.split("-")
        reached = [run["uploads_to_target"] for run in own if run["uploads_to_target"] is not None]
        lines.append(
            (
                algorithm,
                FOLLOWS[follows],
                WEIGHTS[weight],
                f"{digits(fmean(reached))} ({len(reached)} of {len(own)} runs)"
                if reached
                else f"0 of {len(own)} runs",
                *(shown(_of(own, what)) for what in ("uploads", "weights")),
                f"{fmean(run['accuracy'] for run in own):.1%}",
                shown(mean(list(lag[name]))),
            )
        )
    header = (
        "",
        "speed follows labels",
        "weight",
        "uploads to the target",
        "slowest fifth: its share of uploads / of clients",
        "of weight / of clients",
        "accuracy at the end",
        "lag on the slow classes, points",
    )
    return table(header, lines, right=range(3, 8))


def _of(runs: Sequence[Mapping[str, Any]], what: str) -> Interval:
    return mean([_share(run, what) for run in runs])
