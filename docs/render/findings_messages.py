"""Blocks of docs/findings.md on messages and clocks: a scale for a whole tensor, slow links, the two clocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, inf, log, nan
from statistics import fmean
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from docs.render.codec_errors import title
from docs.render.pages import table
from docs.render.records import content, digits
from docs.render.verdicts import (
    Check,
    Finding,
    Interval,
    apart,
    at_least,
    at_most,
    every,
    shown,
    within,
)

CODECS = (
    "qsgd, 4 bits, l2 of the tensor",
    "qsgd, 4 bits",
    "qsgd, 4 bits, rotated",
    "eden, 4 bits",
    "eden, 2 bits",
    "eden, 1 bits",
)
WHOLE, BUCKETS, EDEN = CODECS[0], CODECS[1], CODECS[3]
CLOCKS = {"digits": "clocks", "Fashion-MNIST": "clocks-fashion-mnist"}
SHARES = (0.5, 0.75, 0.9, 0.95)  # of the speed on a free link
VARIANTS = {"fedbuff": "FedBuff, float32", "qsgd4": "QAFeL, 4/4 bits, qsgd", "eden1": "QAFeL, 1/1 bit, eden"}
DRAWS = 1000


# --- 11: one scale for a whole tensor -----------------------------------------------------------------


def whole_tensor() -> Finding:
    """QSGD as published beside buckets and eden, on updates of four models. The ranges are over single updates."""
    runs = content("codec-error")
    errors = {title(run): {one["codec"]: _error(one) for one in run["codecs"]} for run in runs}
    small, large = (errors[title(run)][WHOLE] for run in (runs[0], runs[-1]))
    growth = (large[0] / small[0], large[1] / small[2], large[2] / small[1])
    checks = (
        every(
            "qsgd at 4 bits with the tensor's ‖·‖₂ is no contraction on any update: 1 − δ is 1 or more",
            {name: (found[WHOLE], at_least(found[WHOLE], 1.0)) for name, found in errors.items()},
        ),
        Check(
            f"Its error grows with the model: ten times or more from {runs[0]['elements']:,} elements to "
            f"{runs[-1]['elements']:,}",
            shown(growth),
            at_least(growth, 10.0),
        ),
        every(
            "With ‖·‖∞ of 512 elements, the default, 1 − δ is at most 0.25 on every update",
            {name: (found[BUCKETS], at_most(found[BUCKETS], 0.25)) for name, found in errors.items()},
        ),
        every(
            "eden at 4 bits has at most half of the default's error",
            {
                name: (ratio, at_most(ratio, 0.5))
                for name, found in errors.items()
                for ratio in [_over(found[EDEN], found[BUCKETS])]
            },
        ),
    )
    header = ("1 − δ, mean [least, most]", *errors)
    lines = [(codec, *(shown(found[codec]) for found in errors.values())) for codec in CODECS]
    return Finding(checks, table(header, lines, right=range(1, len(header))), ("codec-error",))


def _error(one: Mapping[str, Any]) -> Interval:
    return one["error"], one["least"], one["most"]


def _over(ours: Interval, theirs: Interval) -> Interval:
    """Whatever update of the one and of the other."""
    return ours[0] / theirs[0], ours[1] / theirs[2], ours[2] / theirs[1]


# --- 12: slow links -----------------------------------------------------------------------------------


def links() -> Finding:
    """The rate of a link at which each keeps so much of its speed on a free one."""
    runs = content("findings-link-rates")
    drawn = _draws(sorted({run["seed"] for run in runs}))
    speeds = {name: _speeds([run for run in runs if run["variant"] == name], drawn) for name in VARIANTS}
    at = {
        name: {share: np.array([rate_at(own, share) for own in speeds[name]]) for share in SHARES}
        for name in VARIANTS
    }
    checks = tuple(
        every(
            f"{VARIANTS[name]} keeps as much of its speed on a link at least {least:g} times slower than FedBuff's",
            {
                f"{share:.0%}": (found, at_least(found, least))
                for share in SHARES
                for found in [_interval(at["fedbuff"][share], at[name][share])]
            },
        )
        for name, least in (("qsgd4", 5.2), ("eden1", 16.0))
    )
    lines = [
        (
            f"{share:.0%}",
            *(shown(_interval(at[name][share])) for name in VARIANTS),
            *(shown(_interval(at["fedbuff"][share], at[name][share])) for name in ("qsgd4", "eden1")),
        )
        for share in SHARES
    ]
    header = ("share of its speed on a free link", *(f"{words}: Mbit/s" for words in VARIANTS.values()),
              "FedBuff's / 4/4's [95%]", "FedBuff's / 1/1's [95%]")  # fmt: skip
    return Finding(checks, table(header, lines, right=range(1, 6)), ("findings-link-rates",))


Speeds = Mapping[float, float]  # Mbit/s, inf for a free link -> server steps a second


def _draws(seeds: Sequence[int]) -> list[list[int]]:
    """All seeds, and then DRAWS times as many of them, with repeats: a bootstrap."""
    drawn = np.random.default_rng(0).choice(seeds, (DRAWS, len(seeds)))
    return [[*seeds], *drawn.tolist()]


def _speeds(runs: Sequence[Mapping[str, Any]], drawn: Sequence[Sequence[int]]) -> list[Speeds]:
    """The mean over the seeds of each draw, at the rates that all seeds have: a run may be too slow for two steps."""
    of: dict[float, dict[int, float]] = {}
    for run in runs:
        if run["per_step"] is not None:
            of.setdefault(inf if run["mbit"] is None else run["mbit"], {})[run["seed"]] = 1 / run["per_step"]
    whole = {rate: own for rate, own in of.items() if len(own) == len(drawn[0])}
    return [{rate: fmean(own[seed] for seed in seeds) for rate, own in whole.items()} for seeds in drawn]


def rate_at(own: Speeds, share: float) -> float:
    """The Mbit/s at which the share of the speed on a free link is reached, between two rates by their logarithms.

    A faster link makes no run slower, so that speeds which fall as the rate grows are noise: they are averaged
    (isotonic regression), and that of the free link is the last of these averages. 0 where the slowest rate is fast
    enough, inf where the fastest is not, and nan without a free link.

    >>> rate_at({1.0: 0.5, 10.0: 1.5, 100.0: 2.0, inf: 2.0}, 0.5).__round__(3)
    3.162
    >>> rate_at({1.0: 0.25, 10.0: 1.05, 100.0: 0.95, inf: 1.0}, 0.625).__round__(3)
    3.162
    >>> rate_at({1.0: 0.6, 10.0: 0.75, inf: 1.0}, 0.5), rate_at({1.0: 0.6, 10.0: 0.75, inf: 1.0}, 0.9)
    (0.0, inf)
    """
    rates = sorted(own)
    if inf not in own:
        return nan
    speeds = isotonic_regression([own[rate] for rate in rates]).x
    shares = speeds / speeds[-1]
    above = int(np.searchsorted(shares, share))  # the first rate with the share or more
    if above == 0 or rates[above] == inf:
        return inf if above else 0.0
    low, high = rates[above - 1], rates[above]
    part = float((share - shares[above - 1]) / (shares[above] - shares[above - 1]))
    return exp(log(low) + part * (log(high) - log(low)))


def _interval(rates: np.ndarray, over: np.ndarray | float = 1.0) -> Interval | None:
    """That of all seeds, and the 95% of the draws; None where an end is not among the rates that were measured."""
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = rates / over
    low, high = np.percentile(drawn[1:], (2.5, 97.5), method="nearest")
    found = float(drawn[0]), float(low), float(high)
    return found if all(0 < value < inf for value in found) else None


# --- 14: the two clocks -------------------------------------------------------------------------------


def clocks() -> Finding:
    """One population on both clocks, and replays of the wall clock's runs."""
    uploads = {words: _by_clock(record) for words, record in CLOCKS.items()}
    ratios = {words: apart(one["virtual"], one["wall"]) for words, one in uploads.items()}
    replays = content("findings-replays")
    same = [one["same"] for one in replays]
    steps = sum(one["server_steps"] for one in replays)
    checks = (
        every(
            "The virtual clock needs the wall clock's uploads to the target, within a factor of 1.25",
            {words: (one, within(one, 1 / 1.25, 1.25)) for words, one in ratios.items()},
        ),
        Check(
            "Replays of wall runs end with the run's model, bit for bit",
            f"{sum(same)} of {len(same)} runs, of {steps:,} server steps together",
            all(same),
        ),
    )
    lines = [
        (words, *(_average(one[clock]) for clock in ("wall", "virtual")), shown(ratios[words]))
        for words, one in uploads.items()
    ]
    header = ("data", "uploads, wall clock", "virtual clock", "virtual / wall [95%]")
    records = (*CLOCKS.values(), "findings-replays")
    return Finding(checks, table(header, lines, right=(1, 2, 3)), records)


def _by_clock(record: str) -> dict[str, list[int]]:
    """Raises ValueError where a run missed its target."""
    found: dict[str, list[int]] = {"wall": [], "virtual": []}
    for run in content(record):
        if run["uploads_to_target"] is None:
            raise ValueError(f"{record}.json: {run['run']} missed its target")
        found[run["driver"]].append(run["uploads_to_target"])
    return found


def _average(uploads: Sequence[int]) -> str:
    return f"{digits(sum(uploads) / len(uploads))} ({min(uploads):,} to {max(uploads):,})"
