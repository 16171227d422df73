"""Algorithms side by side: means over seeds, and the ratio to the FedBuff baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

BOOTSTRAP_SAMPLES = 10_000
BASELINE = "fedbuff"

# What a run needed: for these, the smaller the better.
COSTS = (
    "uploads_to_target",
    "uploads",
    "server_steps",
    "payload_bytes_up",
    "payload_bytes_down",
    "wire_bytes_up",
    "wire_bytes_down",
    "down_links",
    "paper_bytes_up",
    "paper_bytes_down",
    "seconds",
    "virtual_seconds",
)


@dataclass(frozen=True)
class Group:
    """The runs of one setting. Those that never reached the target are counted and enter no mean."""

    label: str
    runs: tuple[dict[str, Any], ...]

    @property
    def reached(self) -> tuple[dict[str, Any], ...]:
        return tuple(run for run in self.runs if run["uploads_to_target"] is not None)

    def values(self, key: str) -> list[float]:
        """One value a run that reached the target."""
        return [float(run[key]) for run in self.reached if run[key] is not None]

    def mean(self, key: str) -> float | None:
        values = self.values(key)
        return fmean(values) if values else None


def label(run: dict[str, Any]) -> str:
    """The setting of a run, in words."""

    def codec(side: str) -> str:
        name, bits = run[f"{side}_codec"], run[f"{side}_bits"]
        return "float32" if name == "identity" and bits == 32 else f"{name} {bits} bits"

    return f"{run['algorithm']}, {codec('uplink')} up, {codec('downlink')} down, K = {run['buffer_size']}"


def groups(runs: Sequence[dict[str, Any]]) -> list[Group]:
    """Runs that differ in nothing but the seed, together; the baseline's group last."""
    by_label: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for run in runs:
        by_label.setdefault((label(run), run["parameters"]), []).append(run)
    found = [Group(name, tuple(members)) for (name, _), members in by_label.items()]
    return sorted(found, key=lambda g: g.runs[0]["algorithm"] == BASELINE)


@dataclass(frozen=True)
class Ratio:
    """baseline / setting: how many times less the setting needed.

    low, high: a 95% bootstrap interval over runs; None where a setting has a single run.
    """

    value: float
    low: float | None
    high: float | None


def saving(setting: Group, baseline: Group, key: str, *, seed: int = 0) -> Ratio | None:
    """How many times fewer than the baseline; None where either never reached the target or needed nothing."""
    ours, theirs = np.array(setting.values(key)), np.array(baseline.values(key))
    if not len(ours) or not len(theirs) or ours.mean() == 0:
        return None
    ratio = float(theirs.mean() / ours.mean())
    if min(len(ours), len(theirs)) < 2:
        return Ratio(ratio, None, None)
    generator = np.random.default_rng(seed)
    samples = _means(theirs, generator) / np.maximum(_means(ours, generator), 1e-300)
    low, high = np.quantile(samples, [0.025, 0.975])
    return Ratio(ratio, float(low), float(high))


def _means(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    picks = generator.integers(0, len(values), (BOOTSTRAP_SAMPLES, len(values)))
    return values[picks].mean(axis=1)
