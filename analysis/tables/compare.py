"""Settings side by side: means over seeds, and the geometric mean of a seed's ratios to the FedBuff baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean, stdev
from typing import Any

from qafel_analysis.read.settings import Settings, alike, comparable, distance, labels
from qafel_analysis.tables.intervals import Cost, Interval, over

BASELINE = "fedbuff"
ENDED = ("finished", "target reached", "made up")  # outcomes of runs that are whole, the last of example.py's
COUNTS = ("payload", "wire", "paper")
WAYS = ("up", "down", "unicast")

# What a setting needed, the smaller the better -> the column of a run that has it at the target.
TO_TARGET = {
    "uploads": "uploads_to_target",
    "server_steps": "steps_to_target",
    "seconds": "seconds_to_target",
} | {f"{count}_bytes_{way}": f"{count}_bytes_{way}_to_target" for way in WAYS for count in COUNTS}
COSTS = (*TO_TARGET, "down_links")

Run = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """The runs of one setting. Those that did not arrive are counted and enter no mean.

    A run arrives at its target; one that has none, at its end. One that was cut short before that, interrupted say,
    tells nothing of what the whole would have cost, and enters no ratio either.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def settings(self) -> Settings:
        return self.runs[0]["settings"]

    @property
    def algorithm(self) -> str:
        return str(self.runs[0]["algorithm"])

    @property
    def target(self) -> str | None:
        return self.runs[0]["target"]

    @property
    def virtual(self) -> bool:
        return self.runs[0]["driver"] == "virtual"

    @property
    def reached(self) -> tuple[Run, ...]:
        """The runs that arrived."""
        return tuple(filter(arrived, self.runs))

    @property
    def absent(self) -> str:
        """What follows its name where no run arrived, so that there is no number."""
        if self.reached:
            return ""
        return " (cut short)" if self.target is None else " (never reached)"

    def values(self, key: str) -> list[float]:
        """One value a run that arrived: of a cost, what it took to the target; to the end where there is none."""
        return [cost.value for cost in self.costs(key) if cost.arrived]

    def costs(self, key: str) -> list[Cost]:
        """One of each run that has a value. One that missed its target has what it spent, and took at least that."""
        found = ((run, _cost(run, key)) for run in self.runs)
        return [Cost(run["seed"], float(value), arrived(run)) for run, value in found if value is not None]

    def mean(self, key: str) -> float | None:
        values = self.values(key)
        return fmean(values) if values else None

    def spread(self, key: str) -> float | None:
        """The standard deviation over runs; None for fewer than two."""
        values = self.values(key)
        return stdev(values) if len(values) > 1 else None


def ended(run: Run) -> bool:
    """At its own end: it is not going on, and was neither interrupted nor failed."""
    return run["outcome"] in ENDED


def arrived(run: Run) -> bool:
    """At its target; where it has none, at its end."""
    return ended(run) if run["target"] is None else run["uploads_to_target"] is not None


def _cost(run: Run, key: str) -> float | None:
    """To the target, or to the run's end where it had none or missed it; None where the end is not the run's own."""
    if run["target"] is None and not arrived(run):
        return None
    if key in TO_TARGET and run["target"] is not None and arrived(run):
        return run[TO_TARGET[key]]
    if key == "seconds" and run["driver"] == "virtual":
        return run["virtual_seconds"]
    return run[key]


def cut_short(groups: Sequence[Group]) -> list[str]:
    """A message for each run that has no target and ended before its end."""
    return [
        f"{run['run']}: {run['outcome']}; it has no target and is no whole run, so it is in no mean and no ratio"
        for group in groups
        for run in group.runs
        if group.target is None and not arrived(run)
    ]


def codecs(run: Mapping[str, Any]) -> str:
    """Those of a run's uplink and downlink, in words; run: its row, or its trace's attributes.

    >>> codecs({"uplink_codec": "eden", "uplink_bits": 1, "downlink_codec": "identity", "downlink_bits": 32})
    'eden 1 bits up, float32 down'
    """

    def codec(side: str) -> str:
        name, bits = run[f"{side}_codec"], run[f"{side}_bits"]
        return f"float{bits}" if name == "identity" else f"{name} {bits} bits"

    return f"{codec('uplink')} up, {codec('downlink')} down"


def label(run: Run) -> str:
    """The algorithm, codecs and buffer of a run, in words."""
    return f"{run['algorithm']}, {codecs(run)}, K = {run['buffer_size']}"


def groups(runs: Sequence[Run]) -> list[Group]:
    """Runs that differ in nothing but the seed, together; by algorithm, bits and buffer, the baseline's last.

    Where two settings would have the same label, settings that tell them apart are added to it.
    """

    def told(run: Run) -> Settings:
        return {"target": run["target"]} | run["settings"]

    members = alike(runs, told)
    names = labels([label(own[0]) for own in members], [told(own[0]) for own in members])
    return sorted(map(Group, names, members), key=_rank)


def _rank(group: Group) -> tuple[Any, ...]:
    """The baseline last; else by what a reader would sort by, and within that as they came."""
    run = group.runs[0]
    numbers = (run[key] for key in ("uplink_bits", "downlink_bits", "buffer_size"))
    return group.algorithm == BASELINE, group.algorithm, *(-1 if n is None else n for n in numbers)


def baseline_of(group: Group, others: Sequence[Group]) -> Group | None:
    """FedBuff on the same task to the same target, in the setting most like this one's."""
    candidates = [
        g
        for g in others
        if g.algorithm == BASELINE and g.target == group.target and comparable(g.settings, group.settings)
    ]
    if group.algorithm == BASELINE or not candidates:
        return None
    return min(candidates, key=lambda g: distance(g.settings, group.settings))


def saving(setting: Group, baseline: Group, key: str) -> Interval | None:
    """How many times less the setting needed: the baseline's over its own, as over() has it.

    None where either needed nothing, or where runs of both missed their target.
    """
    return over(baseline.costs(key), setting.costs(key))


def summary(group: Group, others: Sequence[Group]) -> dict[str, Any]:
    """A setting as a JSON-able object: means and spreads over the runs that count, savings against FedBuff.

    values: by run, in the order of seeds, as costs() has them; arrived: whether the run reached its target, or where
    it has none its end. An end of an interval is null where there is none: of a single run, and above where FedBuff
    missed its target.
    """
    baseline = baseline_of(group, others)
    savings = {}
    for key in COSTS if baseline else ():
        assert baseline is not None
        if found := saving(group, baseline, key):
            low, high = (end if isfinite(end) else None for end in found[1:])
            savings[key] = {"ratio": found.value, "low": low, "high": high}
    keys = ("uploads_to_target", *COSTS, "accuracy", "loss", "mean_staleness")
    return {
        "setting": group.label,
        "algorithm": group.algorithm,
        "target": group.target,
        "runs": len(group.runs),
        "reached": len(group.reached),
        "seeds": [run["seed"] for run in group.runs],
        "arrived": [arrived(run) for run in group.runs],
        "values": {key: [_cost(run, key) for run in group.runs] for key in keys},
        "mean": {key: group.mean(key) for key in keys},
        "standard_deviation": {key: group.spread(key) for key in keys},
        f"{BASELINE}_over_this": savings,
    }
