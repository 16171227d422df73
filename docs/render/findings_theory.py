"""Blocks of docs/findings.md on the paper's orders: staleness by bits, and how its cross term falls with T."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
from qafel_analysis.tables.intervals import POWER
from qafel_analysis.theory.orders import slope, slopes_apart

from docs.render.pages import table
from docs.render.records import content, digits
from docs.render.verdicts import (
    Check,
    Finding,
    Interval,
    at_least,
    at_most,
    every,
    judged,
    mean,
    shown,
    times,
    told,
    within,
)

LEVELS = {  # name of a variant's staleness -> words
    "constant5": "always 5",
    "uniform10": "0 to 10",
    "constant10": "always 10",
    "uniform20": "0 to 20",
    "constant20": "always 20",
    "uniform50": "0 to 50",
    "constant50": "always 50",
}
HALVES = {"uniform10": "constant5", "uniform20": "constant10"}  # the same mean staleness
BITS = {"exact-": "float32", "": "4 bits", "2bit-": "2 bits"}
HORIZONS = (250, 1000, 4000)
# Of exact fresh, exact stale, quantized fresh, quantized stale, as in `qafel-analysis theory`.
EFFECTS = {
    "staleness, without quantization": (-1, 1, 0, 0),
    "quantization, without staleness": (-1, 0, 1, 0),
    "interaction": (1, -1, -1, 1),
}
CLAIMED = {name: -1.0 if name == "interaction" else -0.5 for name in EFFECTS}


def staleness() -> Finding:
    """Seven levels of staleness on the mean of ‖∇f‖², by bits."""
    alone = {level: _effect(level, "exact-", (-1, 1)) for level in LEVELS}
    seeds = len(_seeds(content("findings-staleness")["runs"]))
    halves = {
        f"{LEVELS[one]}, over {LEVELS[other]}": times(alone[one], alone[other])
        for one, other in HALVES.items()
    }
    shares = {words: _share(level) for level, words in LEVELS.items()}
    checks = (
        every(
            "Staleness alone raises the mean of ‖∇f‖² over 1,000 steps",
            {
                LEVELS[level]: (found, at_least(found, 0.0))
                for level in LEVELS
                for found in [mean(alone[level])]
            },
        ),
        _with(
            every(
                "Staleness drawn from 0 to τ costs what a constant τ/2 costs, within 25%",
                {name: (found, within(found, 0.75, 1.25)) for name, found in halves.items()},
            ),
            f"a factor of {digits(_factor_told(halves.values(), seeds))} is told from 1",
            seeds,
        ),
        _with(
            every(
                "Quantizing to 2 bits changes what staleness costs by a tenth at most",
                {name: (found, within(found, -0.1, 0.1)) for name, found in shares.items()},
            ),
            f"a change by {digits(max(told(high - low, seeds) for _, low, high in shares.values()), 2)} of it is "
            "told from none",
            seeds,
        ),
    )
    return Finding(checks, _levels(), ("findings-staleness",))


def cross_term() -> Finding:
    """Slopes of the effects of staleness and quantization against T, alone and together."""
    stale, quantized, cross = (_slope(name) for name in EFFECTS)
    seeds = len(_seeds(content("findings-cross-term")["runs"]))
    checks = (
        judged("Against T staleness's own effect has a slope of −1/2 or less", stale, at_most, -0.5),
        judged("So has quantization's", quantized, at_most, -0.5),
        _slope_told(judged("That of their cross term is −1 or less", cross, at_most, -1.0), cross, seeds),
        *(
            _slope_told(
                judged(
                    f"The cross term falls faster than {whose} own effect: difference of the slopes below 0",
                    apart,
                    at_most,
                    0.0,
                ),
                apart,
                seeds,
            )
            for whose, name in zip(("staleness's", "quantization's"), EFFECTS, strict=False)
            for apart in [_difference("interaction", name)]
        ),
    )
    return Finding(checks, _horizons(), ("findings-cross-term",))


def _slope_told(check: Check, found: Interval | None, seeds: int) -> Check:
    if found is None:
        return replace(check, measured=f"{check.measured}. Not above zero at every T, so there is no slope")
    far = digits(told(found[2] - found[1], seeds), 2)
    return _with(check, f"a truth {far} beyond the bound is told from it", seeds)


def _with(check: Check, words: str, seeds: int) -> Check:
    """What intervals of that width tell."""
    return replace(
        check, measured=f"{check.measured}. With {seeds} seeds {words} with a power of {POWER:.0%}"
    )


def _factor_told(ratios: Iterable[Interval | None], seeds: int) -> float:
    """The largest of these settings."""
    return max(exp(told(log(found[2] / found[1]), seeds)) for found in ratios if found is not None)


# --- staleness by level and bits ----------------------------------------------------------------------


def _runs(record: str) -> Mapping[str, Mapping[int, float]]:
    """Variant -> seed -> the mean of ‖∇f‖²."""
    found: dict[str, dict[int, float]] = {}
    for run in content(record)["runs"]:
        variant, _, _ = Path(run["run"]).stem.rpartition("-seed")
        found.setdefault(variant, {})[run["seed"]] = run["gradient"]
    return found


def _seeds(runs: Sequence[Mapping[str, Any]]) -> list[int]:
    return sorted({run["seed"] for run in runs})


def _effect(level: str, bits: str, weights: Sequence[int]) -> list[float]:
    """Of each seed. weights: of fresh and stale."""
    runs = _runs("findings-staleness")
    fresh, stale = runs[f"{bits}fresh"], runs[f"{bits}{level}"]
    return [weights[0] * fresh[seed] + weights[1] * stale[seed] for seed in sorted(fresh)]


def _share(level: str) -> Interval:
    """The cross term of staleness and 2 bits over staleness's own effect, a seed's runs together."""
    own, quantized = (_effect(level, bits, (-1, 1)) for bits in ("exact-", "2bit-"))
    return mean([(b - a) / a for a, b in zip(own, quantized, strict=True)])


def _levels() -> str:
    runs = _runs("findings-staleness")
    lines = [
        (words, *(shown(mean(list(runs[f"{bits}{level}"].values()))) for bits in BITS))
        for level, words in {"fresh": "none", **LEVELS}.items()
    ]
    header = ("staleness", *(f"mean of ‖∇f‖², {words}" for words in BITS.values()))
    return table(header, lines, right=range(1, len(header)))


# --- slopes against T ---------------------------------------------------------------------------------


def _by_seed(name: str) -> np.ndarray:
    """An effect: (horizons, seeds)."""
    runs = _runs("findings-cross-term")
    cells = ("exact-fresh", "exact-stale", "2bit-fresh", "2bit-stale")
    seeds = sorted(runs[f"{cells[0]}-T{HORIZONS[0]}"])
    values = [[[runs[f"{cell}-T{t}"][seed] for seed in seeds] for t in HORIZONS] for cell in cells]
    return np.tensordot(EFFECTS[name], np.array(values), 1)


def _means(name: str) -> list[Interval]:
    """Of an effect at each T."""
    return [mean(at.tolist()) for at in _by_seed(name)]


def _falls(name: str) -> bool:
    """Whether it has a slope: at every T it is told from zero."""
    return min(found[1] for found in _means(name)) > 0


def _slope(name: str) -> Interval | None:
    return slope(_by_seed(name), HORIZONS) if _falls(name) else None


def _difference(one: str, other: str) -> Interval | None:
    found = (_by_seed(one), _by_seed(other))
    return slopes_apart(*found, HORIZONS) if _falls(one) and _falls(other) else None


def _horizons() -> str:
    lines = []
    for name in EFFECTS:
        lines.append((name, *map(shown, _means(name)), shown(_slope(name)), f"{CLAIMED[name]:g}"))
    header = ("effect on the mean of ‖∇f‖²", *(f"T = {t:,}" for t in HORIZONS), "slope", "claimed, at most")
    return table(header, lines, right=range(1, len(header)))
