"""What a turn under faults comes to: the arithmetic, on times that somebody else has read.

Goodput is the used updates per second and client rank, over the fault-free turns'. A rank counts for the time that it
could work: from when the clients begin to train (again) to the end, without the time that it was dead or stopped. Of
updates that a cut takes back only those count that are in the final trace, and the time that they took counts too.
Time begins when a start's first updates are seen on the disk, so these, which were made before, do not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from qafel_mpi.bench.chaos.schedule import KINDS, Fault
from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Samples

NAN = float("nan")
REFERENCE = "the same run without faults"


class Away(NamedTuple):
    """A client rank could not work from then to then; end_s: infinite where it died. By one clock, in seconds."""

    rank: int
    begin_s: float
    end_s: float


class Segment(NamedTuple):
    """From one start of the job to its end or cut: when its clients began to train, and when they did so last."""

    begin_s: float
    end_s: float
    away: Sequence[Away] = ()


def rank_seconds(segments: Iterable[Segment], client_ranks: int) -> float:
    """Σ over client ranks of the seconds in which each could work."""
    total = 0.0
    for segment in segments:
        length_s = max(0.0, segment.end_s - segment.begin_s)
        total += client_ranks * length_s
        for rank in {away.rank for away in segment.away}:
            total -= _covered(segment, [away for away in segment.away if away.rank == rank])
    return total


def _covered(segment: Segment, away: Sequence[Away]) -> float:
    """Seconds of the segment in which at least one of these holds."""
    covered_s, at_s = 0.0, segment.begin_s
    for _, begin_s, end_s in sorted(away, key=lambda one: one.begin_s):
        begin_s, end_s = max(begin_s, at_s), min(end_s, segment.end_s)
        if end_s > begin_s:
            covered_s += end_s - begin_s
            at_s = end_s
    return covered_s


def before_the_clock(first: Sequence[int], resumed_at: Sequence[int]) -> int:
    """Updates that were made before a segment's time began.

    first: what each start had recorded when its first updates were seen; resumed_at: with how many each but the first
    went on.
    """
    return sum(max(0, seen - had) for seen, had in zip(first, [0, *resumed_at], strict=False))


@dataclass
class Injected:
    """A fault as it came. Seconds are nan where nothing was seen."""

    fault: Fault
    noticed_s: float = NAN  # from the fault until rank 0 said so
    recovered_s: float = NAN  # from its end until new rows of the rank, or of the whole run, were on the disk
    lost: int = 0  # updates that a cut took back; messages to a killed rank that were under way


@dataclass
class Turn:
    """One run. wrong: what is not as it must be, in words; empty at best."""

    used: int = 0
    rank_s: float = 0.0
    injected: list[Injected] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    hung: bool = False
    grown_bytes: int = 0  # memory of rank 0, from its first third to its last
    descriptors: int = 0  # more after a fault than when rank 0 had begun

    @property
    def seconds_a_update(self) -> float:
        """Of a client rank, for one update that the server used."""
        return self.rank_s / self.used if self.used else NAN

    @property
    def lost(self) -> int:
        return sum(one.lost for one in self.injected)

    @property
    def summary(self) -> str:
        """In words: what was injected, and what it cost."""
        kinds = Counter(one.fault.kind for one in self.injected)
        faults = ", ".join(f"{kind} {kinds[kind]}" for kind in KINDS if kinds[kind]) or "no faults"
        return f"{faults}; {self.lost:,} lost, {self.used:,} updates used"


def goodput(turns: Sequence[Turn], free: Sequence[Turn]) -> float:
    """Used updates per rank's second, over the fault-free turns'; nan without any."""
    both = [(sum(t.used for t in some), sum(t.rank_s for t in some)) for some in (turns, free)]
    (used, rank_s), (used_free, rank_s_free) = both
    return (used / rank_s) / (used_free / rank_s_free) if rank_s and used_free and rank_s_free else NAN


def rows(turns: Sequence[Turn], free: Sequence[Turn], ranks: int) -> list[Row]:
    """A row a kind of fault after which the run was seen to go on, and one of all; turns[i] and free[i] are a pair.

    Raises RuntimeError where no two turns have used an update.
    """
    found = [_of_a_kind(kind, turns, ranks) for kind in KINDS if _seen(kind, turns).size]
    pairs = [both for both in zip(turns, free, strict=True) if all(turn.used for turn in both)]
    if not pairs:
        raise RuntimeError(
            "no run came to its end: " + "; ".join(w for t in [*turns, *free] for w in t.wrong)
        )
    ours, reference = np.array([[turn.seconds_a_update for turn in both] for both in pairs]).T
    derived = {
        "goodput": goodput(turns, free),
        "faults": float(sum(len(t.injected) for t in turns)),
        "used": float(sum(t.used for t in turns)),
        "used_without": float(sum(t.used for t in free)),
        "lost": float(sum(t.lost for t in turns)),
        "hangs": float(sum(t.hung for t in [*turns, *free])),
        "grown_mb": max(t.grown_bytes for t in [*turns, *free]) / 1e6,
        "descriptors": float(max(t.descriptors for t in [*turns, *free])),
    }
    wrong = sum(len(t.wrong) for t in [*turns, *free])
    everything = Row(
        "chaos",
        {"fault": "all", "ranks": ranks},
        Samples(ours, np.zeros(0)),
        Samples(reference, np.zeros(0)),
        REFERENCE,
        wrong=wrong,
        reduction="that of a client rank for one used update, in a turn",
        derived=derived,
    )
    return [*found, everything]


def _seen(kind: str, turns: Sequence[Turn]) -> np.ndarray:
    """Seconds to recover, of those faults of a kind that the run was seen to recover from."""
    times = np.array([one.recovered_s for t in turns for one in t.injected if one.fault.kind == kind])
    return times[np.isfinite(times)]


def _of_a_kind(kind: str, turns: Sequence[Turn], ranks: int) -> Row:
    own = [one for t in turns for one in t.injected if one.fault.kind == kind]
    noticed, seen = np.array([one.noticed_s for one in own]), _seen(kind, turns)
    derived = {
        "injected": float(len(own)),
        "lost": float(sum(one.lost for one in own)),
        "recovered": float(len(seen)),
    }
    if (told := noticed[np.isfinite(noticed)]).size:
        derived |= {"notice_us": 1e6 * float(np.median(told)), "notice_max_us": 1e6 * float(told.max())}
    return Row(
        "chaos",
        {"fault": kind, "ranks": ranks},
        Samples(seen, np.zeros(0)),
        wrong=sum(bool(t.wrong) for t in turns if any(one.fault.kind == kind for one in t.injected)),
        reduction="that from a fault's end to the next rows",
        derived=derived,
    )
