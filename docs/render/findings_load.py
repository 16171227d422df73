"""Blocks of docs/findings.md on how a run is loaded: buffer, concurrency, skewed labels, and a budget of bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from qafel_analysis.tables.grid import size
from qafel_analysis.tables.paper import published_concurrency

from docs.render.headline import setting
from docs.render.pages import table
from docs.render.records import NOTHING, content
from docs.render.verdicts import (
    Check,
    Finding,
    at_least,
    at_most,
    every,
    mean,
    needed,
    of_means,
    pick,
    shown,
    spread,
    within,
)
from qafel_mpi import experiments

LARGEST_BUDGET = 1e7  # bytes; with more the best reach the target, at which runs stop
BUFFERS = (1, 2, 5, 10, 20, 50)
WEIGHTED_TOO = (1, 10)
WEIGHTED, UNWEIGHTED = "staleness.weight = polynomial", "staleness.weight = constant"
CONCURRENCIES = (100, 500, 1000)
SKEWS = {  # name in the table -> its part of the label, weakest skew first
    "α = 100": "task.partition.alpha = 100",
    "α = 1": "task.partition.alpha = 1",
    "α = 0.5": "task.partition.alpha = 0.5",
    "α = 0.1": "task.partition.alpha = 0.1",
    "α = 0.05": "task.partition.alpha = 0.05",
    "two classes a client": "task.partition.kind = shards",
}


# --- 5: buffer ----------------------------------------------------------------------------------------


def buffers() -> Finding:
    """K from 1 to 50 at one concurrency."""
    found = content("findings-buffer")
    at_once = experiments.tables("buffer-sweep")["clock"]["concurrency"]
    plain = {k: pick(found, f"K = {k}", *([UNWEIGHTED] if k in WEIGHTED_TOO else [])) for k in BUFFERS}
    weighted = {k: pick(found, f"K = {k}", WEIGHTED) for k in WEIGHTED_TOO}
    staleness = {k: _mean_of(one, "mean_staleness") for k, one in plain.items()}
    down = of_means(plain[1], plain[50], "payload_bytes_down")
    checks = (
        every(
            "Mean staleness is trainings at a time over K, within 10%",
            {
                f"K = {k}, over {at_once / k:g}": (over, within(over, 0.9, 1.1))
                for k, one in staleness.items()
                for over in [_scaled(one, k / at_once)]
            },
        ),
        _uploads(
            plain,
            "Where updates are not weighted, K = {} needs at most 1.2 times the uploads of K = 10",
            at_most,
        ),
        _uploads(
            weighted,
            "Weighted by staleness, K = {} needs 1.2 times the uploads of K = 10 or more",
            at_least,
        ),
        Check(
            "K = 50 sends at least 25 times fewer bytes down than K = 1",
            shown(down),
            at_least(down, 25.0),
        ),
    )
    lines = [
        (
            k,
            shown(staleness[k]),
            spread(plain[k], "server_steps"),
            spread(plain[k], "uploads"),
            spread(weighted[k], "uploads") if k in weighted else NOTHING,
            _size(plain[k], "up"),
            _size(plain[k], "down"),
        )
        for k in BUFFERS
    ]
    header = ("K", "mean staleness [95%]", "server steps", "uploads", "uploads, weighted", "up", "down")
    return Finding(checks, table(header, lines, right=range(7)), ("findings-buffer",))


def _uploads(found: Mapping[int, Mapping[str, Any]], words: str, judge: Any) -> Check:
    others = {k: of_means(one, found[10], "uploads") for k, one in found.items() if k != 10}
    named = {f"K = {k}": (ratio, judge(ratio, 1.2)) for k, ratio in others.items()}
    return every(words.format(", ".join(map(str, others))), named)


def _mean_of(one: Mapping[str, Any], key: str) -> tuple[float, float, float]:
    """A mean of `compare` with its 95% interval."""
    middle, deviation, runs = one["mean"][key], one["standard_deviation"][key] or 0.0, one["reached"]
    # Student's t of so many values depends on their mean and deviation alone: any values with these will do.
    half = (mean(_values(runs))[2]) * deviation
    return middle, middle - half, middle + half


def _values(runs: int) -> list[float]:
    """So many values with mean 0 and standard deviation 1."""
    raw = [k - (runs - 1) / 2 for k in range(runs)]
    deviation = (sum(v * v for v in raw) / (runs - 1)) ** 0.5
    return [v / deviation for v in raw]


def _scaled(found: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    middle, low, high = (value * factor for value in found)
    return middle, low, high


def _size(one: Mapping[str, Any], way: str) -> str:
    return size(one["mean"][f"payload_bytes_{way}"]) if one["reached"] else NOTHING


# --- 6: concurrency -----------------------------------------------------------------------------------


def concurrency() -> Finding:
    """100, 500 and 1,000 trainings at a time, beside the paper's."""
    found = content("findings-concurrency")
    ours = {
        n: {name: pick(found, name, f"clock.concurrency = {n}") for name in ("qafel", "fedbuff")}
        for n in CONCURRENCIES
    }
    ratios = {n: needed(one["qafel"]) for n, one in ours.items()}
    growth = of_means(ours[1000]["fedbuff"], ours[100]["fedbuff"], "uploads")
    checks = (
        every(
            "QAFeL at 4/4 bits needs at most 1.2 times FedBuff's uploads",
            {f"{n:,} at a time": (one, at_most(one, 1.2)) for n, one in ratios.items()},
        ),
        Check(
            "FedBuff needs 1.5 times the uploads or more at 1,000 as at 100",
            shown(growth),
            at_least(growth, 1.5),
        ),
    )
    theirs = published_concurrency()
    lines = [
        (
            f"{n:,}",
            shown(_mean_of(one["fedbuff"], "mean_staleness")),
            spread(one["fedbuff"], "uploads"),
            spread(one["qafel"], "uploads"),
            shown(ratios[n]),
            *_papers(theirs, n),
        )
        for n, one in ours.items()
    ]
    header = (
        "trainings at a time",
        "mean staleness [95%]",
        "uploads, FedBuff",
        "uploads, QAFeL 4/4",
        "QAFeL / FedBuff [95%]",
        "the paper's CIFAR-10: FedBuff",
        "QAFeL 4/4",
    )
    return Finding(checks, table(header, lines, right=range(7)), ("findings-concurrency",))


def _papers(found: Mapping[str, Mapping[int, Sequence[float]]], at_once: int) -> tuple[str, ...]:
    return tuple(f"{fmean(found[name][at_once]):,.0f}" for name in ("fedbuff", "qafel"))


# --- 9: skewed labels ---------------------------------------------------------------------------------


def skew() -> Finding:
    """Labels spread over clients evenly, and less and less so."""
    found = content("findings-skew")
    ours = {
        name: {algorithm: pick(found, algorithm, part) for algorithm in ("qafel", "fedbuff", "ca2fl")}
        for name, part in SKEWS.items()
    }
    qafel, ca2fl = ({name: needed(one[which]) for name, one in ours.items()} for which in ("qafel", "ca2fl"))
    mildest, strongest = "α = 100", "α = 0.05"
    growth = of_means(ours[strongest]["fedbuff"], ours[mildest]["fedbuff"], "uploads")
    checks = (
        every(
            "QAFeL at 4/4 bits needs at most 1.1 times FedBuff's uploads, however skewed the labels",
            {name: (one, at_most(one, 1.1)) for name, one in qafel.items()},
        ),
        Check(
            f"Skew costs FedBuff itself 1.2 times the uploads or more at {strongest} as at {mildest}",
            shown(growth),
            at_least(growth, 1.2),
        ),
        every(
            "CA²FL needs fewer uploads than FedBuff",
            {name: (one, at_most(one, 1.0)) for name, one in ca2fl.items()},
        ),
    )
    lines = [
        (
            name,
            *(spread(one[which], "uploads") for which in ("fedbuff", "qafel")),
            shown(qafel[name]),
            spread(one["ca2fl"], "uploads"),
            shown(ca2fl[name]),
        )
        for name, one in ours.items()
    ]
    header = (
        "labels",
        "uploads, FedBuff",
        "QAFeL 4/4",
        "QAFeL / FedBuff [95%]",
        "CA²FL",
        "CA²FL / FedBuff [95%]",
    )
    return Finding(checks, table(header, lines, right=range(1, 6)), ("findings-skew",))


# --- 13: one budget -----------------------------------------------------------------------------------


def budget() -> Finding:
    """Accuracy once so many payload bytes went up and down, all algorithms of the headline."""
    found = content("findings-budget")
    budgets = found[0]["x"]
    own = pick(found, "qafel", "eden 1 bits up")
    rivals = [one for one in found if not one["algorithm"].startswith("qafel")]
    checks = [_lead(own, rivals, column, at) for column, at in enumerate(budgets) if at <= LARGEST_BUDGET]
    ordered = sorted(found, key=lambda one: -_accuracy(one, budgets.index(5e6)))
    lines = [
        (setting(one["setting"]), *(f"{_accuracy(one, column):.1%}" for column in range(len(budgets))))
        for one in ordered
    ]
    header = ("", *(size(at) for at in budgets))
    return Finding(checks, table(header, lines, right=range(1, len(header))), ("findings-budget",))


def _accuracy(one: Mapping[str, Any], column: int) -> float:
    """Mean over seeds; a run that was not evaluated yet has the accuracy of none."""
    return fmean(values[column] or 0.0 for values in one["values"])


def _lead(own: Mapping[str, Any], rivals: Sequence[Mapping[str, Any]], column: int, at: float) -> Check:
    """Ours against the best of the others by its mean: the difference of a seed's two runs."""
    best = max(rivals, key=lambda one: _accuracy(one, column))
    pairs = zip(own["values"], best["values"], strict=True)
    lead = mean([100 * ((a[column] or 0.0) - (b[column] or 0.0)) for a, b in pairs])
    return Check(
        f"With {size(at)}, QAFeL with eden at 1 bit is more accurate than the best of the others",
        f"Over {setting(best['setting'])}: {shown(lead)} percentage points",
        at_least(lead, 0.0),
    )
