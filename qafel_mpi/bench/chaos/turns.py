"""Turns of a run under faults and of the same run without: they are started and hurt, and what they leave is read.

A turn without faults lasts a third of the time: a pair compares what a second gives. It writes checkpoints as
often as by default; those under faults write many more, and what these cost counts as lost to faults.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import psutil

from qafel_mpi.bench.chaos import accounts
from qafel_mpi.bench.chaos.accounts import Away, Injected, Segment, Turn
from qafel_mpi.bench.chaos.job import Growth, Job, slow_down, stop_for
from qafel_mpi.bench.chaos.schedule import Fault, schedule
from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.trace.merge import shards_of
from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace.shards import scan, shard_path
from qafel_mpi.trace_schema import FAULT_NUMBERS, USED
from qafel_mpi.transport.placement import given_cores

REPLAY_TIMES = 8  # as long as the run itself a replay may take: fewer processes do what all ranks did
BEGIN_SECONDS = 300.0  # a job has so long to begin, and to end behind its time
NOTICE_SECONDS = 10.0
SETTINGS = ("stop.accuracy=1.0", "stop.uploads=100000000", "trace.flush_seconds=0.1")  # it ends by its time
LONGEST_TURN_SECONDS = 180.0
FREE_SHARE = 1 / 3  # of a turn under faults, that the turn without lasts


@dataclass(frozen=True)
class Plan:
    """experiment: a name or file. settings: SECTION.KEY=VALUE. seconds: under faults, in all.

    checkpoint_s: from one checkpoint to the next, under faults.
    """

    experiment: str
    settings: Sequence[str]
    kinds: Sequence[str]
    ranks: int
    seconds: float
    every_s: float
    seed: int
    checkpoint_s: float

    @property
    def turns(self) -> int:
        return max(1, round(self.seconds / LONGEST_TURN_SECONDS))

    @property
    def turn_s(self) -> float:
        return self.seconds / self.turns

    @property
    def free_s(self) -> float:
        return FREE_SHARE * self.turn_s

    def faults(self, turn: int) -> list[Fault]:
        seconds, every_s = self.turn_s, self.every_s
        return schedule(self.kinds, seed=self.seed + turn, ranks=self.ranks, seconds=seconds, every_s=every_s)


def rows(plan: Plan, say: Callable[[str], None]) -> Iterator[Row]:
    """All turns. What each came to, and what goes wrong, is said as it comes."""
    under: list[Turn] = []
    free: list[Turn] = []
    folder = Path(tempfile.mkdtemp(prefix="qafel-chaos-"))
    say(
        f"{plan.turns} turn{'s' * (plan.turns > 1)} of {plan.turn_s:g} s under faults and {plan.free_s:g} s without, "
        "and a replay behind each"
    )
    try:
        for number in range(plan.turns):
            for some, seconds, faults in (
                (under, plan.turn_s, plan.faults(number)),
                (free, plan.free_s, []),
            ):
                name = f"{'free' if some is free else 'faults'}-{number}"
                some.append(turn := Running(plan, folder, name, seconds).run(faults))
                for what in turn.wrong:
                    say(f"{name}: {what}")
            so_far = accounts.goodput(under, free)
            say(f"turn {number + 1} of {plan.turns}: {under[-1].summary}; goodput so far {so_far:.3f}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    yield from accounts.rows(under, free, plan.ranks)


class Running:
    """One turn. seconds: that its clients train."""

    def __init__(self, plan: Plan, folder: Path, name: str, seconds: float):
        self.plan, self.folder, self.seconds = plan, folder, seconds
        self.out = folder / f"{name}.h5"
        self.shards = shards_of(self.out)
        self.turn = Turn()
        self.segments: list[Segment] = []
        self.away: list[Away] = []
        self.first: list[int] = []  # updates that were recorded when a start's first ones were seen
        self.taken: list[int] = []  # and when the job was cut
        self.cuts: list[Injected] = []
        self.down_s = 0.0  # from a cut to the next first updates: the faults behind it come so much later
        self.descriptors: list[int] = []
        self.every: list[str] = []  # the option that says how often it writes checkpoints

    def run(self, faults: Sequence[Fault]) -> Turn:
        """Start it, hurt it, wait for its end."""
        settings = [*self.plan.settings, *SETTINGS, f"stop.seconds={self.seconds}"]
        self.every = ["--checkpoint-every", f"{self.plan.checkpoint_s:g}s"] if faults else []
        sets = [word for setting in settings for word in ("--set", setting)]
        self._start("run", self.plan.experiment, *sets, "--out", str(self.out))
        try:
            if self._goes_on(perf_counter()):
                begun_s = self.begin_s
                for fault in faults:
                    self.job.stays_until(begun_s + self.down_s + fault.at_s)
                    if self.job.over:
                        break
                    self._inject(fault)
                self._end()
            else:
                self._fails("the job did not begin")
        finally:
            if not self.job.over:
                self.job.cut()
            self.growth.close()
        return self.turn

    def _start(self, *arguments: str) -> None:
        self.growth = Growth(self.shards)
        self.job = Job([*arguments, *self.every], self.plan.ranks, self.folder)

    def _goes_on(self, since_s: float) -> bool:
        """Wait for the first updates; whether there are any."""
        if not self.job.wait(lambda: self.growth.after("updates", 0, since_s) > 0, BEGIN_SECONDS):
            return False
        self.begin_s = self.growth.after("updates", 0, since_s)
        self.first.append(self._recorded())
        self._count_descriptors()
        return True

    def _recorded(self) -> int:
        """Rows of /updates on the disk."""
        updates = shard_path(self.shards, "updates", 0)
        return scan(updates).rows if updates.exists() else 0

    def _count_descriptors(self) -> None:
        if (process := self.job.rank(0)) is not None:
            try:
                self.descriptors.append(process.num_fds())
            except psutil.Error:
                return

    def _inject(self, fault: Fault) -> None:
        one = Injected(fault)
        if fault.kind == "cut":
            self._cut(one)
        elif (process := self.job.rank(fault.rank)) is None:
            return  # it has ended, with the run
        elif fault.kind == "kill":
            begun_s = perf_counter()
            process.kill()
            self.away.append(Away(fault.rank, begun_s, float("inf")))
            self.job.wait(lambda: self.job.heard_of_death(fault.rank, begun_s) >= 0, NOTICE_SECONDS)
            one.noticed_s = self.job.heard_of_death(fault.rank, begun_s)
            self._recovers(one, "updates", 0, begun_s)
        else:
            begun_s = perf_counter()
            if fault.kind == "stop":
                stop_for(process, fault.seconds)
                self.away.append(Away(fault.rank, begun_s, perf_counter()))
            else:
                self.away.append(Away(fault.rank, begun_s, begun_s + slow_down(process, fault.seconds)))
            self._recovers(one, "messages", fault.rank, perf_counter())
        self.turn.injected.append(one)
        self._count_descriptors()

    def _recovers(self, one: Injected, table: str, rank: int, since_s: float) -> None:
        self.job.wait(lambda: self.growth.after(table, rank, since_s) > 0, NOTICE_SECONDS)
        one.recovered_s = self.growth.after(table, rank, since_s) - since_s

    def _cut(self, one: Injected) -> None:
        self.job.wait(lambda: any(self.shards.glob("checkpoint.*.qck")), NOTICE_SECONDS)
        begun_s = perf_counter()
        self.job.cut()
        self._segment_ends()
        self.growth.close()
        self.taken.append(self._recorded())
        self.cuts.append(one)
        self._start("run", "--resume", str(self.out))
        if self._goes_on(begun_s):
            one.recovered_s = self.begin_s - begun_s
            self.down_s += one.recovered_s

    def _segment_ends(self) -> None:
        last_s = self.growth.last("updates", 0)
        self.segments.append(Segment(self.begin_s, last_s, tuple(self.away)))
        self.away = []
        if self.descriptors:  # of one process of rank 0: a cut begins another
            grown = self.descriptors[-1] - self.descriptors[0]
            self.turn.descriptors = max(self.turn.descriptors, grown)
        self.descriptors = []

    def _end(self) -> None:
        begun_s, left_s = perf_counter(), self.seconds + BEGIN_SECONDS
        if not self.job.wait(lambda: self.job.over, left_s):
            self.turn.hung = True
            self._fails(f"it had not ended {perf_counter() - begun_s:.0f} s later, and was killed")
            return
        self._segment_ends()
        self.job.close()
        if self.job.process.returncode != 0 or not self.out.exists():
            self._fails(f"exit code {self.job.process.returncode}")
            return
        self._read()
        self._replay()

    def _read(self) -> None:
        turn = self.turn
        turn.rank_s = accounts.rank_seconds(self.segments, self.plan.ranks - 1)
        with open_trace(self.out) as trace:
            about, faults, ranks = trace.attributes, trace.table("faults"), trace.table("ranks")
            turn.used = int(np.count_nonzero(trace.table("updates", ["use"])["use"] == USED))
            memory = trace.table("memory")["resident_bytes"].astype(np.int64)
            messages = trace.table("messages", ["end", "src", "dst"])
        if about["outcome"] != "finished":
            turn.wrong.append(f"its outcome is {about['outcome']!r}")
        if (third := len(memory) // 3) and not self.cuts:
            turn.grown_bytes = int(np.median(memory[-third:]) - np.median(memory[third : 2 * third + 1]))
        resumed_at = [int(again["updates"]) for again in json.loads(about.get("resumed", "[]"))]
        for one, taken, kept in zip(self.cuts, self.taken, resumed_at, strict=False):
            one.lost = max(0, taken - kept)
        turn.used -= accounts.before_the_clock(self.first, resumed_at)
        died = faults[faults["kind"] == FAULT_NUMBERS["rank died"]]
        for one in turn.injected:
            if one.fault.kind == "kill":
                one.lost = int(died["in_flight"][died["rank"] == one.fault.rank].sum())
        if not turn.injected:
            turn.wrong += unequal(messages, ranks["rank"].tolist())

    def _replay(self) -> None:
        """What was recorded must give the same model, bit for bit."""
        ranks = replay_ranks(self.plan.ranks, len(given_cores()))
        job = Job(["replay", str(self.out)], ranks, self.folder)
        if not job.wait(lambda: job.over, REPLAY_TIMES * self.seconds + BEGIN_SECONDS):
            job.cut()
            self.turn.hung = True
            self.turn.wrong.append("its replay did not end")
            return
        job.close()
        if job.process.returncode != 0:
            self.turn.wrong.append(f"its replay: exit code {job.process.returncode}: {job.last_words()}")

    def _fails(self, what: str) -> None:
        self.turn.wrong.append(f"{what}: {self.job.last_words()}")


def replay_ranks(most: int, cores: int) -> int:
    """A worker a core, and rank 0; with one core everything in one process.

    >>> replay_ranks(8, 1), replay_ranks(8, 2), replay_ranks(8, 64)
    (1, 3, 8)
    """
    return min(most, cores + 1) if cores > 1 else 1


def unequal(messages: np.ndarray, ranks: Sequence[int]) -> list[str]:
    """Pairs of ranks that all lived, of which one has sent other numbers of messages than the other has received."""
    size = max(ranks, default=0) + 1
    pairs = messages["src"].astype(np.int64) * size + messages["dst"]
    sent, received = (np.bincount(pairs[messages["end"] == end], minlength=size * size) for end in (0, 1))
    return [
        f"rank {pair // size} sent {sent[pair]} messages to rank {pair % size}, which received {received[pair]}"
        for pair in np.nonzero(sent != received)[0].tolist()
    ]
