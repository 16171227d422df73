"""Blocks of docs/findings.md on the paper's orders: staleness by bits, and how its cross term falls with T."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
SAMPLES = 4_000
# Of exact fresh, exact stale, quantized fresh, quantized stale, as in `qafel-analysis theory`.
EFFECTS = {
    "staleness, without quantization": (-1, 1, 0, 0),
    "quantization, without staleness": (-1, 0, 1, 0),
    "interaction": (1, -1, -1, 1),
}
CLAIMED = {name: -1.0 if name == "interaction" else -0.5 for name in EFFECTS}


def staleness() -> Finding:
    """Levels of staleness on the mean of ‖∇f‖², by bits: seven, or those of a small record."""
    runs = _runs("findings-staleness")
    levels = [level for level in LEVELS if f"exact-{level}" in runs]
    alone = {level: _effect(level, "exact-", (-1, 1)) for level in levels}
    checks = (
        every(
            "Staleness alone raises the mean of ‖∇f‖² over 1,000 steps",
            {
                LEVELS[level]: (found, at_least(found, 0.0))
                for level in levels
                for found in [mean(alone[level])]
            },
        ),
        every(
            "Staleness drawn from 0 to τ costs what a constant τ/2 costs, within 25%",
            {
                f"{LEVELS[one]}, over {LEVELS[other]}": (found, within(found, 0.75, 1.25))
                for one, other in HALVES.items()
                if one in alone and other in alone
                for found in [times(alone[one], alone[other])]
            },
        ),
        every(
            "Quantizing to 2 bits changes what staleness costs by a tenth at most",
            {
                LEVELS[level]: (found, within(found, -0.1, 0.1))
                for level in levels
                for found in [_share(level)]
            },
        ),
    )
    return Finding(checks, _levels(), ("findings-staleness",))


def cross_term() -> Finding:
    """Slopes of the effects of staleness and quantization against T, alone and together."""
    stale, quantized, cross = (_slope(name) for name in EFFECTS)
    checks = (
        judged("Against T staleness's own effect has a slope of −1/2 or less", stale, at_most, -0.5),
        judged("So has quantization's", quantized, at_most, -0.5),
        Check(
            "That of their cross term is −1 or less",
            f"{shown(cross)}. {_power(cross)}",
            at_most(cross, -1.0),
        ),
        judged(
            "The cross term falls faster than quantization's own effect: difference of the slopes below 0",
            _difference("interaction", "quantization, without staleness"),
            at_most,
            0.0,
        ),
    )
    return Finding(checks, _horizons(), ("findings-cross-term",))


def _power(found: Interval | None) -> str:
    """What an interval of this width tells with a power of 80%: 2.8 standard errors, 1.96 + 0.84."""
    if found is None:
        return "Not above zero at every T, so there is no slope"
    apart = (1.96 + 0.84) * (found[2] - found[1]) / (2 * 1.96)
    seeds = len(_seeds(content("findings-cross-term")["runs"]))
    return f"With {seeds} seeds a slope {digits(apart, 2)} away from −1 is told from it with a power of 80%"


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
    own = {bits: words for bits, words in BITS.items() if f"{bits}fresh" in runs}
    lines = [
        (words, *(shown(mean(list(runs[f"{bits}{level}"].values()))) for bits in own))
        for level, words in {"fresh": "none", **LEVELS}.items()
        if f"exact-{level}" in runs
    ]
    header = ("staleness", *(f"mean of ‖∇f‖², {words}" for words in own.values()))
    return table(header, lines, right=range(1, len(header)))


# --- slopes against T ---------------------------------------------------------------------------------


def _drawn() -> Mapping[str, np.ndarray]:
    """Effect -> (1 + SAMPLES, horizons): of all seeds first, then of seeds drawn with replacement."""
    runs = _runs("findings-cross-term")
    cells = ("exact-fresh", "exact-stale", "2bit-fresh", "2bit-stale")
    seeds = sorted(runs[f"{cells[0]}-T{HORIZONS[0]}"])
    values = np.array([[[runs[f"{cell}-T{t}"][seed] for seed in seeds] for t in HORIZONS] for cell in cells])
    generator = np.random.default_rng(0)
    picks = generator.integers(0, len(seeds), (SAMPLES, len(seeds)))
    picks = np.concatenate([np.arange(len(seeds))[None], picks])
    means = values[:, :, picks].mean(axis=3)  # (cells, horizons, samples)
    return {name: np.tensordot(weights, means, 1).T for name, weights in EFFECTS.items()}


def _slopes(name: str) -> np.ndarray | None:
    """Of the whole and of each sample; None where an effect is not above zero at every T in 95% of the samples."""
    found = _drawn()[name]
    above = np.all(found > 0, axis=1)
    if not above[0] or above.mean() < 0.95:
        return None
    x = np.log(np.array(HORIZONS, dtype=float))
    x -= x.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        slopes = np.log(found) @ x / (x @ x)
    return np.where(above, slopes, np.nan)


def _interval(samples: np.ndarray) -> Interval:
    low, high = np.nanquantile(samples[1:], [0.025, 0.975])
    return float(samples[0]), float(low), float(high)


def _slope(name: str) -> Interval | None:
    found = _slopes(name)
    return None if found is None else _interval(found)


def _difference(one: str, other: str) -> Interval | None:
    slopes = _slopes(one), _slopes(other)
    return None if slopes[0] is None or slopes[1] is None else _interval(slopes[0] - slopes[1])


def _horizons() -> str:
    lines = []
    for name in EFFECTS:
        effects = [_interval(column) for column in _drawn()[name].T]
        lines.append((name, *map(shown, effects), shown(_slope(name)), f"{CLAIMED[name]:g}"))
    header = ("effect on the mean of ‖∇f‖²", *(f"T = {t:,}" for t in HORIZONS), "slope", "claimed, at most")
    return table(header, lines, right=range(1, len(header)))
