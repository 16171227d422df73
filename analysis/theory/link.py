"""Which codecs for a link? Seconds to the target where the server's one link carries every message.

An upload takes as long as the slower of two: sending it, and waiting for the next training to end. A broadcast counts
once for the K uploads of its step. So a setting needs uploads · (max(between, up/rate) + down/(rate · K)) seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from qafel_analysis.tables.compare import BASELINE, Group
from qafel_analysis.tables.grid import NOTHING, Grid
from qafel_analysis.tables.intervals import Interval, times

_TIES = 3  # that a table names


@dataclass(frozen=True)
class Setting:
    """uploads: to the target, by seed. up_bytes, down_bytes: of an upload and of a broadcast, on the wire."""

    name: str
    uploads: Mapping[int, float]
    up_bytes: float
    down_bytes: float
    buffer_size: int


@dataclass(frozen=True)
class Rated:
    """A setting on one link. over_best: its seconds over those of the fastest setting, of 95%, seeds in pairs."""

    setting: Setting
    seconds: float
    over_best: Interval | None

    @property
    def tied(self) -> bool:
        """Whether the seeds leave it open that this one is as fast as the fastest."""
        return self.over_best is not None and self.over_best[1] <= 1


def seconds(uploads: float, one: Setting, mbit: float, between_s: float) -> float:
    """To the target. mbit: the link's rate, each way, in Mbit/s. between_s: from the end of one training to the next.

    >>> one = Setting("", {}, up_bytes=125_000, down_bytes=1_250_000, buffer_size=10)
    >>> [round(seconds(100, one, mbit=100, between_s=wait), 6) for wait in (0.001, 0.05)]
    [2.0, 6.0]
    """
    per_s = mbit * 1e6 / 8
    return uploads * (max(between_s, one.up_bytes / per_s) + one.down_bytes / per_s / one.buffer_size)


def rated(settings: Sequence[Setting], mbit: float, between_s: float) -> list[Rated]:
    """The fastest first, by the mean over seeds."""

    def cost(one: Setting) -> float:
        return seconds(fmean(one.uploads.values()), one, mbit, between_s)

    ordered = sorted(settings, key=cost)
    best = ordered[0]
    return [Rated(one, cost(one), _over(one, best, mbit, between_s)) for one in ordered]


def _over(one: Setting, best: Setting, mbit: float, between_s: float) -> Interval | None:
    """Geometric mean over the seeds that both have, with Student's interval of 95%; None for fewer than two."""
    seeds = sorted(set(one.uploads) & set(best.uploads))
    sides = ([seconds(own.uploads[seed], own, mbit, between_s) for seed in seeds] for own in (one, best))
    return times(*sides) if len(seeds) > 1 else None


def setting(group: Group) -> Setting:
    """That of runs which all reached their target."""
    runs = group.runs
    return Setting(
        name=group.label,
        uploads={run["seed"]: float(run["uploads_to_target"]) for run in runs},
        up_bytes=fmean(run["wire_bytes_up"] / run["uploads"] for run in runs),
        down_bytes=fmean(run["wire_bytes_down"] / run["server_steps"] for run in runs),
        buffer_size=int(runs[0]["buffer_size"]),
    )


def as_json(found: Mapping[float, Sequence[Rated]], between_s: float) -> list[dict[str, Any]]:
    """A row for each rate and setting, the fastest first."""
    return [
        {
            "mbit": mbit,
            "between_ms": 1e3 * between_s,
            "setting": one.setting.name,
            "wire_bytes_up": one.setting.up_bytes,
            "wire_bytes_down": one.setting.down_bytes,
            "seconds": one.seconds,
            "over_best": one.over_best,
            "tied": one.tied,
        }
        for mbit, rows in found.items()
        for one in rows
    ]


def link_grid(found: Mapping[float, Sequence[Rated]], between_s: float) -> Grid:
    """A row a rate: the fastest setting, what is as fast as far as the seeds tell, and FedBuff's seconds over its."""
    rows = tuple(_row(mbit, ordered) for mbit, ordered in found.items())
    caption = (
        f"Trainings end every {1e3 * between_s:g} ms, and the server's link carries all messages; a broadcast counts "
        "once. A tie: the 95% interval of its seconds over the fastest's, seeds in pairs, has 1 in it."
    )
    return Grid(caption, ("Mbit/s", "fastest", "ties", "seconds", f"{BASELINE}'s / fastest's"), rows, texts=3)


def _row(mbit: float, ordered: Sequence[Rated]) -> tuple[str, ...]:
    best, *others = ordered
    baseline = [one.seconds for one in ordered if one.setting.name.startswith(f"{BASELINE}, ")]
    return (
        f"{mbit:g}",
        best.setting.name,
        ties(others),
        f"{best.seconds:.3g}",
        f"{min(baseline) / best.seconds:.3g}" if baseline else NOTHING,
    )


def ties(others: Sequence[Rated]) -> str:
    """Those of the others that are as fast, as far as the seeds tell."""
    if any(one.over_best is None for one in others):
        return "not known: one seed"
    names = [one.setting.name for one in others if one.tied]
    more = len(names) - _TIES
    return ("; ".join(names[:_TIES]) + (f" and {more} more" if more > 0 else "")) or NOTHING
