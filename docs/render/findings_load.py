"""Blocks of docs/findings.md on how a run is loaded: buffer, concurrency, skewed labels, and a budget of bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

from qafel_analysis.tables.grid import size
from qafel_analysis.tables.paper import published_concurrency

from docs.render.headline import setting
from docs.render.pages import table
from docs.render.records import NOTHING, content, digits
from docs.render.verdicts import (
    Check,
    Cost,
    Finding,
    Interval,
    against,
    at_least,
    at_most,
    costs,
    every,
    judged,
    mean,
    mean_of,
    needed,
    over,
    pick,
    shown,
    spread,
    there,
    times,
    within,
)
from qafel_mpi import experiments

BUDGETS = {"up": "findings-budget", "up and down": "findings-budget-both"}  # of wire bytes -> its record
LARGEST_BUDGET = 1e7  # bytes; with more the best reach the target, at which runs stop
CONCURRENCIES = (100, 500, 1000)
SKEWS = {  # name in the table -> its part of the label, weakest skew first
    "α = 100": "task.partition.alpha = 100.0",
    "α = 1": "task.partition.alpha = 1.0",
    "α = 0.5": "task.partition.alpha = 0.5",
    "α = 0.1": "task.partition.alpha = 0.1",
    "α = 0.05": "task.partition.alpha = 0.05",
    "two classes a client": "task.partition.kind = shards",
}
TEXTS = {  # name in the table -> its part of the label
    "a module a client": "task.partition.kind = natural",
    "dealt evenly": "task.partition.kind = iid",
}
STRONG_SKEWS = ("α = 0.1", "α = 0.05", "two classes a client")


# --- 5: buffer ----------------------------------------------------------------------------------------


def buffers() -> Finding:
    """K from 1 to 50 at one concurrency."""
    at_once = experiments.tables("buffer-sweep")["clock"]["concurrency"]
    plain, weighted = (_by_buffer(f"findings-buffer{which}") for which in ("", "-weighted"))
    staleness = {k: mean([run["mean_staleness"] for run in runs]) for k, runs in plain.items()}
    grown = {
        f"K = {small}, over K = {large}": _over(weighted[small], weighted[large], "uploads_to_target")
        for small, large in pairwise(sorted(weighted))
    }
    down = _over(plain[1], plain[50], "payload_bytes_down_to_target")
    checks = (
        every(
            "Mean staleness is trainings at a time over K, within 10%",
            {
                f"K = {k}, over {at_once / k:g}": (over, within(over, 0.9, 1.1))
                for k, runs in plain.items()
                for over in [mean([run["mean_staleness"] * k / at_once for run in runs])]
            },
        ),
        _against_ten(plain, "uploads", "the uploads"),
        _against_ten(plain, "seconds", "the time"),
        every(
            "Weighted by staleness, a smaller buffer needs more uploads than the next larger one",
            {name: (ratio, at_least(ratio, 1.0)) for name, ratio in grown.items()},
            1.0,
        ),
        judged(
            "Weighted by staleness, K = 1 needs 1.2 times the uploads of K = 10 or more",
            _over(weighted[1], weighted[10], "uploads_to_target"),
            at_least,
            1.2,
        ),
        judged("K = 50 sends at least 25 times fewer bytes down than K = 1", down, at_least, 25.0),
    )
    lines = [
        (
            k,
            shown(staleness[k]),
            _average(runs, "steps"),
            *(
                _average(own[k], what) if k in own else NOTHING
                for own in (plain, weighted)
                for what in ("uploads", "seconds")
            ),
            *(size(fmean(run[f"payload_bytes_{way}_to_target"] for run in runs)) for way in ("up", "down")),
        )
        for k, runs in plain.items()
    ]
    header = (
        "K",
        "mean staleness [95%]",
        "server steps",
        "uploads",
        "simulated seconds",
        "uploads, weighted",
        "simulated seconds, weighted",
        "up",
        "down",
    )
    records = ("findings-buffer", "findings-buffer-weighted")
    return Finding(checks, table(header, lines, right=range(9)), records)


def _by_buffer(name: str) -> dict[int, list[Mapping[str, Any]]]:
    """The runs of a record of `table` by K, in the order of seeds. Raises ValueError where one missed its target."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for run in sorted(content(name), key=lambda run: (run["buffer_size"], run["seed"])):
        if run["uploads_to_target"] is None:
            raise ValueError(f"{name}.json: {run['run']} missed its target, and has no place in a mean")
        found.setdefault(run["buffer_size"], []).append(run)
    return found


def _against_ten(found: Mapping[int, Sequence[Mapping[str, Any]]], what: str, words: str) -> Check:
    """Every other K against K = 10, by uploads or by seconds to the target."""
    ratios = {f"K = {k}": _over(runs, found[10], f"{what}_to_target") for k, runs in found.items() if k != 10}
    return every(
        f"Where updates are not weighted, every other K needs at most 1.2 times {words} of K = 10",
        {name: (ratio, at_most(ratio, 1.2)) for name, ratio in ratios.items()},
        1.2,
    )


def _over(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], key: str
) -> Interval | None:
    """Ours over theirs, a seed's two runs together."""
    return times([run[key] for run in ours], [run[key] for run in theirs])


def _average(runs: Sequence[Mapping[str, Any]], key: str) -> str:
    found = [run[f"{key}_to_target"] for run in runs]
    return f"{digits(fmean(found))} ± {digits(stdev(found), 2)}"


# --- 6: concurrency -----------------------------------------------------------------------------------


def concurrency() -> Finding:
    """100, 500 and 1,000 trainings at a time, beside the paper's."""
    found = content("findings-concurrency")
    ours = {
        n: {name: pick(found, name, f"clock.concurrency = {n}") for name in ("qafel", "fedbuff")}
        for n in CONCURRENCIES
    }
    ratios = {n: needed(one["qafel"]) for n, one in ours.items()}
    growth = against(ours[1000]["fedbuff"], ours[100]["fedbuff"], "uploads")
    checks = (
        every(
            "QAFeL at 4/4 bits needs at most 1.2 times FedBuff's uploads",
            {f"{n:,} at a time": (one, at_most(one, 1.2)) for n, one in ratios.items()},
            1.2,
        ),
        judged(
            "With 1,000 at a time FedBuff needs at least 1.5 times the uploads that it needs with 100",
            growth,
            at_least,
            1.5,
        ),
    )
    theirs = published_concurrency()
    lines = [
        (
            f"{n:,}",
            shown(mean_of(one["fedbuff"], "mean_staleness")),
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
        "the paper's CIFAR-10: FedBuff (least to most of its repetitions)",
        "QAFeL 4/4",
    )
    return Finding(checks, table(header, lines, right=range(7)), ("findings-concurrency",))


def _papers(found: Mapping[str, Mapping[int, Sequence[float]]], at_once: int) -> tuple[str, ...]:
    repetitions = (found[name][at_once] for name in ("fedbuff", "qafel"))
    return tuple(f"{fmean(own):,.0f} ({min(own):,.0f} to {max(own):,.0f})" for own in repetitions)


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
    growth = against(ours[strongest]["fedbuff"], ours[mildest]["fedbuff"], "uploads")
    checks = (
        every(
            "QAFeL at 4/4 bits needs at most 1.1 times FedBuff's uploads, however skewed the labels",
            {name: (one, at_most(one, 1.1)) for name, one in qafel.items()},
            1.1,
        ),
        judged(
            f"At {strongest} FedBuff itself needs at least 1.2 times the uploads that it needs at {mildest}",
            growth,
            at_least,
            1.2,
        ),
        every(
            "CA²FL, which corrects for skew, needs fewer uploads than FedBuff where it is strong",
            {name: (ca2fl[name], at_most(ca2fl[name], 1.0)) for name in STRONG_SKEWS},
            1.0,
        ),
        every(
            f"It is the correction that saves them: there CA²FL needs a smaller share of FedBuff's than at {mildest}",
            {
                name: (over, at_most(over, 1.0))
                for name in STRONG_SKEWS
                for over in [_over_mildest(ours, name)]
            },
            1.0,
        ),
    )
    return Finding(checks, _skews_table("labels", ours), ("findings-skew",))


def _skews_table(what: str, ours: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    lines = [
        (
            name,
            *(spread(one[which], "uploads") for which in ("fedbuff", "qafel")),
            shown(needed(one["qafel"])),
            *((spread(one["ca2fl"], "uploads"), shown(needed(one["ca2fl"]))) if "ca2fl" in one else ("", "")),
        )
        for name, one in ours.items()
    ]
    header = (
        what,
        "uploads, FedBuff",
        "QAFeL 4/4",
        "QAFeL / FedBuff [95%]",
        "CA²FL",
        "CA²FL / FedBuff [95%]",
    )
    return table(header, lines, right=range(1, 6))


def _over_mildest(ours: Mapping[str, Mapping[str, Mapping[str, Any]]], name: str) -> Interval | None:
    """A skew's ratio of CA²FL to FedBuff over that of the mildest, a seed's four runs together."""
    return over(*(_shares(one["ca2fl"], one["fedbuff"]) for one in (ours[name], ours["α = 100"])))


def _shares(ca2fl: Mapping[str, Any], fedbuff: Mapping[str, Any]) -> list[Cost]:
    """CA²FL's uploads over FedBuff's, of each seed with which FedBuff reached the target."""
    base = {cost.seed: cost.value for cost in costs(fedbuff, "uploads") if cost.arrived}
    own = costs(ca2fl, "uploads")
    return [cost._replace(value=cost.value / base[cost.seed]) for cost in own if cost.seed in base]


def natural_skew() -> Finding:
    """A client a module of the standard library, against the same text dealt evenly."""
    found = content("findings-skew-text")
    ours = {
        name: {
            algorithm: pick(found, algorithm, part)
            for algorithm in ("qafel", "fedbuff", "ca2fl")
            if there(found, algorithm, part)
        }
        for name, part in TEXTS.items()
        if there(found, "fedbuff", part)
    }
    qafel = {name: needed(one["qafel"]) for name, one in ours.items()}
    ca2fl = {name: needed(one["ca2fl"]) for name, one in ours.items() if "ca2fl" in one}
    checks = [
        every(
            "QAFeL at 4/4 bits needs at most 1.1 times FedBuff's uploads",
            {name: (one, at_most(one, 1.1)) for name, one in qafel.items()},
            1.1,
        )
    ]
    if len(ours) > 1:
        apart, even = (ours[name]["fedbuff"] for name in TEXTS)
        checks.append(
            judged(
                "With a module a client FedBuff itself needs at least 1.2 times the uploads of text dealt evenly",
                against(apart, even, "uploads"),
                at_least,
                1.2,
            )
        )
    if ca2fl:
        checks.append(
            every(
                "CA²FL, with a quarter of the server's rate, needs fewer uploads than FedBuff",
                {name: (one, at_most(one, 1.0)) for name, one in ca2fl.items()},
                1.0,
            )
        )
    return Finding(checks, _skews_table("text", ours), ("findings-skew-text",))


# --- 13: one budget -----------------------------------------------------------------------------------


def budget() -> Finding:
    """Accuracy once so many wire bytes were sent, all algorithms of the headline."""
    checks: list[Check] = []
    tables = []
    for way, name in BUDGETS.items():
        found = content(name)
        own = pick(found, "qafel", "eden 1 bits up")
        rivals = [one for one in found if not one["algorithm"].startswith("qafel")]
        within_reach = [column for column, at in enumerate(own["x"]) if at <= LARGEST_BUDGET]
        checks += [_lead(own, rivals, column, f"{size(own['x'][column])} {way}") for column in within_reach]
        tables.append(f"Wire bytes {way}:\n\n{_accuracies(found)}")
    return Finding(checks, "\n\n".join(tables), tuple(BUDGETS.values()))


def _accuracies(found: Sequence[Mapping[str, Any]]) -> str:
    """A line a setting, a column a budget; the most accurate with 5 MB first."""
    budgets = found[0]["x"]
    ordered = sorted(found, key=lambda one: -_accuracy(one, budgets.index(5e6)))
    lines = [
        (setting(one["setting"]), *(f"{_accuracy(one, column):.1%}" for column in range(len(budgets))))
        for one in ordered
    ]
    header = ("", *(size(at) for at in budgets))
    return table(header, lines, right=range(1, len(header)))


def _accuracy(one: Mapping[str, Any], column: int) -> float:
    """Mean over seeds; a run that was not evaluated yet has the accuracy of none."""
    return fmean(values[column] or 0.0 for values in one["values"])


def _lead(own: Mapping[str, Any], rivals: Sequence[Mapping[str, Any]], column: int, budget: str) -> Check:
    """Ours against the best of the others by its mean: the difference of a seed's two runs."""
    best = max(rivals, key=lambda one: _accuracy(one, column))
    pairs = zip(own["values"], best["values"], strict=True)
    lead = mean([100 * ((a[column] or 0.0) - (b[column] or 0.0)) for a, b in pairs])
    return Check(
        f"With {budget}, QAFeL with eden at 1 bit is more accurate than the best of the others",
        f"Over {setting(best['setting'])}: {shown(lead)} percentage points",
        at_least(lead, 0.0),
    )
