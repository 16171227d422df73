"""What a claim's numbers say of it: statements with bounds, judged by their intervals, and the verdict of all.

Intervals are those of qafel_analysis.tables.intervals: 95%, Student's t over seeds. A statement that an interval
neither bears out nor refutes is open. A run that missed its target took at least what it had spent, so its setting's
ratio to another has one end, and the other is infinite: "at most b" fails where that end is above b, else is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf, isnan, nan
from typing import Any

from qafel_analysis.tables.intervals import (  # noqa: F401  (the pages have what makes intervals from here)
    Cost,
    Interval,
    apart,
    mean,
    over,
    times,
    told,
)

from docs.render.commands import analysis
from docs.render.records import digits, interval, origin

MOST_DIGITS = 6
_WORDS = {True: "holds", False: "does not hold", None: "open"}


@dataclass(frozen=True)
class Check:
    """One statement of a claim, what was measured, and whether that bears it out. None: the interval allows both.

    settings: of a statement about several, how each was judged.
    """

    words: str
    measured: str
    holds: bool | None
    settings: Mapping[str, bool | None] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Finding:
    """A claim's statements, its table, and the records of both."""

    checks: Sequence[Check]
    table: str
    records: Sequence[str]

    @property
    def verdict(self) -> str:
        """
        >>> Finding([Check("", "", True), Check("", "", None)], "", []).verdict
        'holds partly'
        """
        holds, fails, unknown = self.counts
        if holds:
            return "holds partly" if fails or unknown else "holds"
        if fails:
            return "fails partly" if unknown else "does not hold here"
        return "open: not enough was measured"

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many statements hold, fail, and are open."""
        found = [check.holds for check in self.checks]
        return found.count(True), found.count(False), found.count(None)

    def markdown(self) -> str:
        """Verdict, statements, table, and where the numbers come from."""
        lines = [f"- {check.words}: {_WORDS[check.holds]}. {check.measured}" for check in self.checks]
        then = [command for name in self.records if (command := analysis(name))]
        small_print = origin(*self.records, then=then)
        parts = (f"**Verdict: {self.verdict}.**", "\n".join(lines), self.table, small_print)
        return "\n\n".join(parts)


def shown(found: Interval | None, *bounds: float) -> str:
    """With so many digits that the ends stand on the same side of the bounds as they do unrounded.

    >>> shown((2.0, 1.5, 3.0)), shown((2.0, nan, nan)), shown(None)
    ('2.00 [1.50, 3.00]', '2.00 [one run]', '–')
    >>> shown((2.0, 1.5, inf)), shown((0.5, 0.0, nan))
    ('≥ 2.00 [1.50, ∞]', '≤ 0.500 [one run]')
    >>> shown((15.1, 14.96, 15.3), 15.0)
    '15.10 [14.96, 15.30]'
    """
    if found is None:
        return interval(None)
    sign, known = Interval(*found).sign, Interval(*found).known
    if not known:
        return f"{sign}{digits(found[0])} [one run]"
    count = next((count for count in range(3, MOST_DIGITS) if _sides_kept(found, bounds, count)), MOST_DIGITS)
    return sign + interval(found, partial(digits, count=count))


def _sides_kept(found: Interval, bounds: Sequence[float], count: int) -> bool:
    """Whether the ends are on the same side of every bound when they are rounded to so many digits."""
    sides = [
        (end > bound) - (end < bound) == (rounded > bound) - (rounded < bound)
        for end in found[1:]
        for rounded in [float(f"{end:.{count}g}")]
        for bound in bounds
    ]
    return all(sides)


# --- judging an interval ------------------------------------------------------------------------------


def at_least(found: Interval | None, bound: float) -> bool | None:
    """
    >>> at_least((2.0, 1.5, 3.0), 1.2), at_least((2.0, 1.1, 3.0), 1.2), at_least((1.0, 0.9, 1.1), 1.2)
    (True, None, False)
    """
    if found is None:
        return None
    _, low, high = found
    if isnan(low) or isnan(high) or low < bound <= high:
        return None
    return low >= bound


def at_most(found: Interval | None, bound: float) -> bool | None:
    """
    >>> at_most((1.0, 0.9, 1.1), 1.2), at_most((1.1, 0.9, 1.3), 1.2), at_most((2.0, 1.5, 3.0), 1.2)
    (True, None, False)
    """
    if found is None:
        return None
    _, low, high = found
    if isnan(low) or isnan(high) or low <= bound < high:
        return None
    return high <= bound


def within(found: Interval | None, low: float, high: float) -> bool | None:
    """
    >>> within((1.0, 0.95, 1.05), 0.9, 1.1), within((1.0, 0.8, 1.2), 0.9, 1.1), within((2.0, 1.9, 2.1), 0.9, 1.1)
    (True, None, False)
    """
    if found is None:
        return None
    if low <= found[1] and found[2] <= high:
        return True
    return False if found[2] < low or found[1] > high else None


def judged(
    words: str,
    found: Interval | None,
    judge: Callable[[Interval | None, float], bool | None],
    bound: float,
) -> Check:
    """One statement about one interval.

    >>> judged("is small", (1.0, 0.9, 1.1), at_most, 1.2)
    Check(words='is small', measured='1.00 [0.900, 1.10]', holds=True)
    """
    return Check(words, shown(found, bound), judge(found, bound))


def every(
    words: str,
    found: Mapping[str, tuple[Interval | None, bool | None]],
    *bounds: float,
    show: Callable[..., str] = shown,
) -> Check:
    """One statement about several settings: it holds where it does for all, and fails where it does for one.

    bounds: that they were judged by. show: an interval and its bounds in words.

    >>> every("grows", {"a": ((2.0, 1.5, 3.0), True), "b": ((1.0, 0.5, 3.0), None)})
    Check(words='grows', measured='a: 2.00 [1.50, 3.00]; b: 1.00 [0.500, 3.00] (open)', holds=None)
    """
    notes = {True: "", False: " (no)", None: " (open)"}
    measured = "; ".join(
        f"{name}: {show(one, *bounds)}{notes[judged]}" for name, (one, judged) in found.items()
    )
    settings = {name: judged for name, (_, judged) in found.items()}
    return Check(words, measured, together(settings.values()), settings)


def together(judgements: Iterable[bool | None]) -> bool | None:
    """
    >>> together([True, True]), together([True, None]), together([None, False]), together([])
    (True, None, False, None)
    """
    found = set(judgements)
    return False if False in found else True if found == {True} else None


# --- intervals of records -----------------------------------------------------------------------------


def costs(one: Mapping[str, Any], key: str) -> list[Cost]:
    """What each run of a setting of `compare` took; at least that, where it missed its target."""
    found = zip(one["seeds"], one["values"][key], one["arrived"], strict=True)
    return [Cost(seed, value, arrived) for seed, value, arrived in found if value is not None]


def mean_of(one: Mapping[str, Any], key: str) -> Interval:
    """The mean over the runs of a setting of `compare` that reached its target."""
    return mean([cost.value for cost in costs(one, key) if cost.arrived])


def against(ours: Mapping[str, Any], theirs: Mapping[str, Any], key: str) -> Interval | None:
    """Ours over theirs, of two settings of `compare`, a seed's two runs together."""
    return over(costs(ours, key), costs(theirs, key))


def saved(one: Mapping[str, Any], key: str) -> Interval | None:
    """FedBuff's over this one's, as `compare` has it."""
    found = one["fedbuff_over_this"].get(key)
    if found is None:
        return None
    low = nan if found["low"] is None else found["low"]
    above = inf if low > 0 else nan  # FedBuff missed its target; a single run has no end above
    return Interval(found["ratio"], low, above if found["high"] is None else found["high"])


def needed(one: Mapping[str, Any], key: str = "uploads") -> Interval | None:
    """This one's over FedBuff's."""
    found = saved(one, key)
    return None if found is None else found.inverse


# --- settings of a record -----------------------------------------------------------------------------


def pick(found: Sequence[Mapping[str, Any]], *parts: str) -> Mapping[str, Any]:
    """The setting whose label has all these parts. Raises LookupError unless there is exactly one."""
    fitting = _fitting(found, parts)
    if len(fitting) != 1:
        raise LookupError(f"{len(fitting)} settings have {parts}")
    return fitting[0]


def there(found: Sequence[Mapping[str, Any]], *parts: str) -> bool:
    """Whether there is a setting to pick: a small record has fewer."""
    return bool(_fitting(found, parts))


def _fitting(found: Sequence[Mapping[str, Any]], parts: Sequence[str]) -> list[Mapping[str, Any]]:
    return [one for one in found if set(parts) <= set(one["setting"].split(", "))]


def spread(one: Mapping[str, Any], key: str) -> str:
    """A mean of `compare` with its standard deviation, and how many runs it is of where some missed the target."""
    if not one["reached"]:
        return f"0 of {one['runs']} runs"
    deviation = one["standard_deviation"][key]
    text = digits(one["mean"][key]) + (f" ± {digits(deviation, 2)}" if deviation else "")
    return text if one["reached"] == one["runs"] else f"{text} ({one['reached']} of {one['runs']} runs)"
