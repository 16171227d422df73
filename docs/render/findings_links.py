"""A block of docs/findings.md on slow links: at which rate an algorithm keeps so much of its speed on a free one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, log
from statistics import fmean
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from docs.render.pages import table
from docs.render.records import NOTHING, content
from docs.render.verdicts import Finding, Interval, at_least, every, shown, times

SHARES = (0.5, 0.75, 0.9, 0.95)  # of the speed on a free link
VARIANTS = {"fedbuff": "FedBuff, float32", "qsgd4": "QAFeL, 4/4 bits, qsgd", "eden1": "QAFeL, 1/1 bit, eden"}
SHARPEST = 50.0  # with this exponent the sum is the larger of its two parts, to 2%

Rounds = Mapping[int, Mapping[float, float]]  # seed -> Mbit/s, inf for a free link -> seconds a server step


def links() -> Finding:
    """The rate of a link at which each keeps so much of its speed on a free one."""
    runs = content("findings-link-rates")
    rounds = {name: _rounds(run for run in runs if run["variant"] == name) for name in VARIANTS}
    curves = {name: [fitted(own) for own in rounds[name].values()] for name in VARIANTS}
    at = {name: {share: _rates(curves[name], rounds[name], share) for share in SHARES} for name in VARIANTS}
    checks = tuple(
        every(
            f"{VARIANTS[name]} keeps as much of its speed on a link at least {least:g} times slower than FedBuff's",
            {
                f"{share:.0%}": (found, at_least(found, least))
                for share in SHARES
                for found in [_over(at["fedbuff"][share], at[name][share])]
            },
        )
        for name, least in (("qsgd4", 5.2), ("eden1", 16.0))
    )
    lines = [
        (
            f"{share:.0%}",
            *(shown(_mean(at[name][share])) for name in VARIANTS),
            *(shown(_over(at["fedbuff"][share], at[name][share])) for name in ("qsgd4", "eden1")),
        )
        for share in SHARES
    ]
    header = ("share of its speed on a free link", *(f"{words}: Mbit/s" for words in VARIANTS.values()),
              "FedBuff's / 4/4's [95%]", "FedBuff's / 1/1's [95%]")  # fmt: skip
    shares = table(header, lines, right=range(1, 6))
    return Finding(checks, f"{shares}\n\n{_seconds(rounds, curves)}", ("findings-link-rates",))


# --- a round ------------------------------------------------------------------------------------------


def _rounds(runs: Iterable[Mapping[str, Any]]) -> Rounds:
    """A round is a seed at all rates. Runs of one rate are averaged, and those too slow for a step are left out."""
    found: dict[int, dict[float, list[float]]] = {}
    for run in runs:
        own = found.setdefault(run["seed"], {})
        if run["per_step"] is not None:
            own.setdefault(run["mbit"] or inf, []).append(run["per_step"])
    return {
        seed: {rate: exp(fmean(map(log, values))) for rate, values in sorted(own.items())}
        for seed, own in found.items()
    }


@dataclass(frozen=True)
class Curve:
    """Seconds a server step at a rate of r Mbit/s: (free^p + (megabits / r)^p)^(1/p).

    p = 1: what the link takes adds to all else; as p grows, messages hide behind training or training behind
    messages, and the longer of the two counts. On no link is a step faster than `megabits` of it go through.
    """

    free: float  # s, on a free link
    megabits: float  # of a step, on a link that is slow enough to decide alone
    p: float

    def seconds(self, mbit: float) -> float:
        """
        >>> Curve(0.5, 6.0, 2.0).seconds(15.0).__round__(4), Curve(0.5, 6.0, 2.0).seconds(inf)
        (0.6403, 0.5)
        """
        # The larger factor goes out of the sum: its power alone might be too large a number.
        longer = max(self.free, self.megabits / mbit)
        shorter = min(self.free, self.megabits / mbit)
        return float(longer * (1 + (shorter / longer) ** self.p) ** (1 / self.p))

    def rate_at(self, share: float) -> float:
        """The Mbit/s at which this share of the speed on a free link is left.

        >>> Curve(0.5, 6.0, 1.0).rate_at(0.5), Curve(0.5, 6.0, 50.0).rate_at(0.5).__round__(3)
        (12.0, 6.0)
        """
        return float(self.megabits / self.free * (share**-self.p - 1) ** (-1 / self.p))


def fitted(own: Mapping[float, float]) -> Curve | None:
    """To a round, by least squares of logarithms. None without a free link, or with fewer than three other rates.

    >>> made = Curve(0.04, 11.0, 4.0)
    >>> found = fitted({rate: made.seconds(rate) for rate in (30.0, 100.0, 300.0, 1000.0, inf)})
    >>> [round(value, 3) for value in (found.free, found.megabits, found.p)]
    [0.04, 11.0, 4.0]
    """
    if inf not in own or len(own) < 4:
        return None
    rates = list(own)
    slowest = min(rates)

    def off(values: np.ndarray) -> list[float]:
        curve = _curve(values)
        return [log(curve.seconds(rate) / own[rate]) for rate in rates]

    begin = [log(own[inf]), log(own[slowest] * slowest), 0.25]
    bounds = ([-inf, -inf, 1 / SHARPEST], [inf, inf, 1.0])
    return _curve(least_squares(off, begin, bounds=bounds).x)


def _curve(values: np.ndarray) -> Curve:
    free, megabits, flatness = map(float, values)
    return Curve(exp(free), exp(megabits), 1 / flatness)


# --- over rounds --------------------------------------------------------------------------------------


def _rates(curves: Sequence[Curve | None], rounds: Rounds, share: float) -> list[float] | None:
    """Of each round; None where one has no curve, or its rate is not among those that were measured."""
    found = []
    for curve, own in zip(curves, rounds.values(), strict=True):
        shaped = [rate for rate in own if rate < inf]
        if curve is None or not min(shaped) <= curve.rate_at(share) <= max(shaped):
            return None
        found.append(curve.rate_at(share))
    return found


def _mean(values: Sequence[float] | None) -> Interval | None:
    """The geometric mean over rounds, with Student's interval of the logarithms; None for fewer than two."""
    return None if values is None or len(values) < 2 else times(values, [1.0] * len(values))


def _over(ours: Sequence[float] | None, theirs: Sequence[float] | None) -> Interval | None:
    """Ours over theirs, a round's two values together."""
    return (
        None if ours is None or theirs is None else _mean([a / b for a, b in zip(ours, theirs, strict=True)])
    )


def _seconds(rounds: Mapping[str, Rounds], curves: Mapping[str, Sequence[Curve | None]]) -> str:
    """A line a rate; and how well the curves fit."""
    rates = sorted({rate for found in rounds.values() for own in found.values() for rate in own})
    lines = [
        (
            "free" if rate == inf else f"{rate:,g}",
            *(shown(_mean(_at(found, rate))) for found in rounds.values()),
        )
        for rate in rates
    ]
    header = ("link: Mbit/s", *(f"{words}: seconds a step [95%]" for words in VARIANTS.values()))
    seconds = table(header, lines, right=range(4))
    worst = ", ".join(f"{_worst(rounds[name], curves[name])} for {words}" for name, words in VARIANTS.items())
    return f"{seconds}\n\nThe curves' largest distance from the mean seconds at a rate: {worst}."


def _at(found: Rounds, rate: float) -> list[float] | None:
    """Seconds of every round; None where one has none: too slow for a step, or not run."""
    values = [own[rate] for own in found.values() if rate in own]
    return values if len(values) == len(found) else None


def _worst(found: Rounds, curves: Sequence[Curve | None]) -> str:
    """The largest error of the curves at a rate, as a mean over rounds of logarithms."""
    errors: dict[float, list[float]] = {}
    for own, curve in zip(found.values(), curves, strict=True):
        if curve is None:
            return NOTHING
        for rate, measured in own.items():
            errors.setdefault(rate, []).append(log(curve.seconds(rate) / measured))
    return f"{100 * (exp(max(abs(fmean(own)) for own in errors.values())) - 1):.1f}%"
