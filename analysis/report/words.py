"""What a collection of runs says, in sentences: the report's summary. Plain text; the page escapes it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pandas as pd
from qafel_analysis.figures.collect import Collection, Detail
from qafel_analysis.figures.points import trade_off
from qafel_analysis.tables.compare import BASELINE, Group, baseline_of, cut_short, saving
from qafel_analysis.tables.grid import bounds, number
from qafel_analysis.tables.intervals import Interval

MOST_SETTINGS = 8  # that get a sentence each; the tables have all


def headline(found: Collection) -> list[tuple[str, str]]:
    """(a number, what it is), the few that a reader should see first."""
    settings = found.groups
    cards = [
        (
            f"{len(found.runs):,}",
            f"runs of {len(settings):,} {'setting' if len(settings) == 1 else 'settings'}",
        )
    ]
    if best := _best(settings):
        group, baseline = best
        for key, what in (("payload_bytes_up", "bytes up"), ("payload_bytes_down", "bytes down")):
            if ratio := saving(group, baseline, key):
                cards.append(
                    (f"{ratio.sign}{ratio.value:.2f}×", f"fewer {what} than {BASELINE}: {group.label}")
                )
        if uploads := saving(group, baseline, "uploads"):
            own = uploads.inverse
            cards.append((f"{own.sign}{own.value:.2f}×", f"the uploads of {BASELINE}, in that setting"))
    messages = sum(int(_rows(d.attributes)) for d in found.drawn)
    if messages:
        cards.append((f"{messages:,}", "rows of messages recorded, at both ends"))
    return cards


def _rows(attributes: dict[str, object]) -> int:
    """Messages that a run's own totals speak of."""
    try:
        return int(json.loads(str(attributes.get("rows", "{}"))).get("messages", 0))
    except (ValueError, TypeError, AttributeError):
        return 0


def _compared(groups: Sequence[Group]) -> list[tuple[Group, Group, Interval]]:
    """Settings beside their baseline, the greatest saving of bytes up first; what is but a bound comes last."""
    found = []
    for group in groups:
        baseline = baseline_of(group, groups)
        if baseline and (ratio := saving(group, baseline, "payload_bytes_up")):
            found.append((group, baseline, ratio))
    return sorted(found, key=lambda item: (item[2].sign, -item[2].value))


def _best(groups: Sequence[Group]) -> tuple[Group, Group] | None:
    """QAFeL's setting that saves most, or another algorithm's where there is none of QAFeL."""
    compared = _compared(groups)
    first = next((c for c in compared if c[0].algorithm == "qafel"), compared[0] if compared else None)
    return None if first is None else (first[0], first[1])


def findings(found: Collection) -> Iterator[str]:
    """One sentence or two each: settings against the baseline, targets that were missed, the front, the ranks."""
    groups = found.groups
    compared = _compared(groups)
    for group, baseline, up in compared[:MOST_SETTINGS]:
        yield against(group, baseline, up)
    if len(compared) > MOST_SETTINGS:
        yield f"{len(compared) - MOST_SETTINGS} more settings stand beside {BASELINE} in the table below."
    if not compared and len(groups) > 1:
        yield f"No setting has a {BASELINE} run on the same task to the same target, so nothing is compared."
    yield from _missed(groups)
    front = trade_off(groups)
    if len(front) > 1:
        names = list(dict.fromkeys(front[front["front"]].sort_values("bytes")["label"]))
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        yield (
            "No other setting needs both fewer uploads and fewer bytes to the target than: "
            + "; ".join(names[:12])
            + more
            + "."
        )
    for detail in found.details:
        if len(detail.shares):
            yield _ranks(detail)


def against(group: Group, baseline: Group, up: Interval) -> str:
    """A setting against the baseline, each ratio with its interval over runs."""
    parts = [f"{_fewer(up)} payload bytes up"]
    if down := saving(group, baseline, "payload_bytes_down"):
        parts.append(f"{_fewer(down)} down, by broadcast,")
    words = f"{group.label} sent {' and '.join(parts)} than {baseline.label}"
    if group.target is None:
        own, other = group.mean("loss"), baseline.mean("loss")
        return (
            f"Over whole runs, for there was no target: {words}; final loss {number(own)} against {number(other)}. "
            f"{_basis(group, baseline)}"
        )
    if uploads := saving(group, baseline, "uploads"):
        words += f", with {_multiple(uploads)}"
    return f"To {group.target}, {words}. {_basis(group, baseline)}"


def _fewer(ratio: Interval) -> str:
    """7.8× fewer, or 1.3× more; the interval is of the ratio that is named."""
    more = ratio.value < 1
    named = ratio.inverse if more else ratio
    return f"{named.sign_in_words}{named.value:.2f}× {'more' if more else 'fewer'}{_told(named)}"


def _multiple(uploads: Interval) -> str:
    own = uploads.inverse
    words = f"{own.sign_in_words}{own.value:.2f} times as many uploads{_told(own)}"
    if own.low <= 1 <= own.high and own.low < own.high:
        words += ", which the runs' spread does not tell from equal"
    return words


def _told(ratio: Interval) -> str:
    return "" if ratio.low == ratio.high else bounds(ratio)


def _basis(group: Group, baseline: Group) -> str:
    own, other = (len(g.reached if g.target is None else g.runs) for g in (group, baseline))
    counts = f"{own} and {other} runs"
    if min(own, other) < 2:
        return f"From {counts}: too few for an interval."
    return (
        f"Geometric means over {counts}, seed by seed where they share seeds; in brackets t intervals of 95%."
    )


def _missed(groups: Sequence[Group]) -> Iterator[str]:
    missed = [g for g in groups if g.target is not None and len(g.reached) < len(g.runs)]
    for g in missed[:MOST_SETTINGS]:
        which = f"{len(g.runs) - len(g.reached)} of {len(g.runs)} runs"
        yield (
            f"{g.label}: {which} never reached {g.target}; they are left out of the means, and count in ratios with "
            "what they had spent at their end."
        )
    if len(missed) > MOST_SETTINGS:
        yield f"{len(missed) - MOST_SETTINGS} more settings have runs that never reached their target."
    short = cut_short(groups)
    for words in short[:MOST_SETTINGS]:
        yield f"{words}."
    if len(short) > MOST_SETTINGS:
        yield f"{len(short) - MOST_SETTINGS} more runs without a target were cut short, and are left out alike."


def _ranks(detail: Detail) -> str:
    shares, window = detail.shares, detail.window
    words = (
        f"{detail.name}, {number(window.begin_s)} s to {number(window.end_s)} s: "
        f"the server decoded for {_share(shares, 'decode', server=True)} and encoded for "
        f"{_share(shares, 'encode', server=True)} of the time"
    )
    if (shares.index > 0).any():
        words += (
            f"; the other ranks trained for {_share(shares, 'train', server=False)} of it and waited for "
            f"{_share(shares, 'wait', server=False)}, means over ranks"
        )
    return words + "."


def _share(shares: pd.DataFrame, activity: str, *, server: bool) -> str:
    rows = shares[shares.index == 0] if server else shares[shares.index > 0]
    return f"{rows[activity].mean():.1%}" if len(rows) else "an unknown share"
