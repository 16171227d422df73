"""Settings side by side: means over seeds, and the ratio to the FedBuff baseline with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
from qafel_analysis.read.settings import Settings, comparable, distance, telling

BOOTSTRAP_SAMPLES = 10_000
BASELINE = "fedbuff"
COUNTS = ("payload", "wire", "paper")
WAYS = ("up", "down", "unicast")

# What a setting needed, the smaller the better -> the column of a run that has it at the target.
TO_TARGET = {
    "uploads": "uploads_to_target",
    "server_steps": "steps_to_target",
    "seconds": "seconds_to_target",
} | {f"{count}_bytes_{way}": f"{count}_bytes_{way}_to_target" for way in WAYS for count in COUNTS}
COSTS = ("uploads_to_target", *TO_TARGET, "down_links")

Run = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """The runs of one setting. Those that never reached their target are counted and enter no mean."""

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
        """The runs that count: all where there was no target to reach."""
        return tuple(r for r in self.runs if r["target"] is None or r["uploads_to_target"] is not None)

    def values(self, key: str) -> list[float]:
        """One value a run that counts: of a cost, what it took to the target; to the end where there is none."""
        found = (_cost(run, key) for run in self.reached)
        return [float(value) for value in found if value is not None]

    def mean(self, key: str) -> float | None:
        values = self.values(key)
        return fmean(values) if values else None

    def spread(self, key: str) -> float | None:
        """The standard deviation over runs; None for fewer than two."""
        values = self.values(key)
        return stdev(values) if len(values) > 1 else None


def _cost(run: Run, key: str) -> float | None:
    if key in TO_TARGET and run["target"] is not None:
        return run[TO_TARGET[key]]
    if key == "seconds" and run["driver"] == "virtual":
        return run["virtual_seconds"]
    return run[key]


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
    by_setting: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        key = (run["target"], *sorted((k, repr(v)) for k, v in run["settings"].items()))
        by_setting.setdefault(key, []).append(run)
    members = [tuple(found) for found in by_setting.values()]
    labels = [label(runs[0]) for runs in members]
    found = []
    for runs_of_one, own in zip(members, labels, strict=True):
        alike = [m for m, other in zip(members, labels, strict=True) if other == own]
        extra = telling([{"target": m[0]["target"]} | m[0]["settings"] for m in alike])
        words = extra[alike.index(runs_of_one)]
        found.append(Group(f"{own}, {words}" if words else own, runs_of_one))
    return sorted(found, key=_rank)


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


@dataclass(frozen=True)
class Ratio:
    """baseline / setting: how many times less the setting needed.

    low, high: a 95% bootstrap interval over runs; None where a setting has a single run.
    """

    value: float
    low: float | None
    high: float | None


def saving(setting: Group, baseline: Group, key: str, *, seed: int = 0) -> Ratio | None:
    """How many times fewer than the baseline; None where either never reached the target or needed nothing.

    Where the baseline has all seeds of the setting's runs that count, only its runs of these seeds are taken, and a
    seed's two runs are drawn together: most of what makes runs differ (who trains when, on what) is a function of the
    seed, and cancels out.
    """
    ours, theirs = np.array(setting.values(key)), np.array(baseline.values(key))
    if not len(ours) or not len(theirs) or ours.mean() == 0:
        return None
    if pairs := _in_pairs(setting, baseline, key):
        ours, theirs = np.array(pairs).T
    ratio = float(theirs.mean() / ours.mean())
    if min(len(ours), len(theirs)) < 2:
        return Ratio(ratio, None, None)
    generator = np.random.default_rng(seed)
    of_theirs = _picks(generator, len(theirs))
    of_ours = of_theirs if pairs else _picks(generator, len(ours))
    samples = theirs[of_theirs].mean(axis=1) / np.maximum(ours[of_ours].mean(axis=1), 1e-300)
    low, high = np.quantile(samples, [0.025, 0.975])
    return Ratio(ratio, float(low), float(high))


def _picks(generator: np.random.Generator, runs: int) -> np.ndarray:
    """(BOOTSTRAP_SAMPLES, runs) of the runs' numbers."""
    return generator.integers(0, runs, (BOOTSTRAP_SAMPLES, runs))


def _in_pairs(setting: Group, baseline: Group, key: str) -> list[tuple[float, float]]:
    """(setting's, baseline's) value of each seed of the setting; none unless both have one run that counts of it."""
    ours, theirs = ([run["seed"] for run in group.reached] for group in (setting, baseline))
    values = [group.values(key) for group in (setting, baseline)]
    once = len(set(ours)) == len(ours) and len(set(theirs)) == len(theirs)
    if not once or not set(ours) <= set(theirs) or [len(v) for v in values] != [len(ours), len(theirs)]:
        return []
    own, other = dict(zip(ours, values[0], strict=True)), dict(zip(theirs, values[1], strict=True))
    return [(own[seed], other[seed]) for seed in sorted(own)]


def summary(group: Group, others: Sequence[Group]) -> dict[str, Any]:
    """A setting as a JSON-able object: means and spreads over the runs that count, savings against FedBuff."""
    baseline = baseline_of(group, others)
    savings = {}
    for key in COSTS if baseline else ():
        assert baseline is not None
        if found := saving(group, baseline, key):
            savings[key] = {"ratio": found.value, "low": found.low, "high": found.high}
    keys = (*COSTS, "accuracy", "loss", "mean_staleness")
    return {
        "setting": group.label,
        "algorithm": group.algorithm,
        "target": group.target,
        "runs": len(group.runs),
        "reached": len(group.reached),
        "seeds": [run["seed"] for run in group.runs],
        "mean": {key: group.mean(key) for key in keys},
        "standard_deviation": {key: group.spread(key) for key in keys},
        f"{BASELINE}_over_this": savings,
    }
