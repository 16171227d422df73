"""Turns of a run under faults and of the same run without: they are started and hurt, and what they leave is read."""

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

BEGIN_SECONDS = 300.0  # a job has so long to begin, and to end behind its time
NOTICE_SECONDS = 10.0
SETTINGS = ("stop.accuracy=1.0", "trace.flush_seconds=0.1")
MOST_CHECKPOINT_SECONDS = 5.0  # between two, and at least four from one fault to the next
LONGEST_TURN_SECONDS = 120.0


@dataclass(frozen=True)
class Plan:
    """experiment: a name or file. settings: SECTION.KEY=VALUE. seconds: of faults, in all."""

    experiment: str
    settings: Sequence[str]
    kinds: Sequence[str]
    ranks: int
    seconds: float
    every_s: float
    seed: int

    @property
    def turns(self) -> int:
        return max(1, round(self.seconds / LONGEST_TURN_SECONDS))

    @property
    def turn_s(self) -> float:
        return self.seconds / self.turns


def rows(plan: Plan, say: Callable[[str], None]) -> Iterator[Row]:
    """All turns; what goes wrong is said as it comes."""
    under: list[Turn] = []
    free: list[Turn] = []
    folder = Path(tempfile.mkdtemp(prefix="qafel-chaos-"))
    try:
        for number in range(plan.turns):
            faults = schedule(
                plan.kinds,
                seed=plan.seed + number,
                ranks=plan.ranks,
                seconds=plan.turn_s,
                every_s=plan.every_s,
            )
            for some, hurt in ((under, faults), (free, [])):
                name = f"{'faults' if hurt else 'free'}-{number}"
                turn = Running(plan, folder, name).run(hurt)
                some.append(turn)
                for what in turn.wrong:
                    say(f"{name}: {what}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    yield from accounts.rows(under, free, plan.ranks)


class Running:
    """One turn."""

    def __init__(self, plan: Plan, folder: Path, name: str):
        self.plan, self.folder = plan, folder
        self.out = folder / f"{name}.h5"
        self.shards = shards_of(self.out)
        self.turn = Turn()
        self.segments: list[Segment] = []
        self.away: list[Away] = []
        self.taken: list[int] = []  # updates that were recorded when the job was cut
        self.cuts: list[Injected] = []
        self.descriptors: list[int] = []

    def run(self, faults: Sequence[Fault]) -> Turn:
        """Start it, hurt it, wait for its end."""
        settings = [*self.plan.settings, *SETTINGS, f"stop.seconds={self.plan.turn_s}"]
        sets = [word for setting in settings for word in ("--set", setting)]
        self._start("run", self.plan.experiment, *sets, "--out", str(self.out))
        try:
            if self._goes_on(perf_counter()):
                begun_s = self.begin_s
                for fault in faults:
                    self.job.stays_until(begun_s + fault.at_s)
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
        often = f"{min(MOST_CHECKPOINT_SECONDS, self.plan.every_s / 4):g}s"
        self.job = Job([*arguments, "--checkpoint-every", often], self.plan.ranks, self.folder)

    def _goes_on(self, since_s: float) -> bool:
        """Wait for the first updates; whether there are any."""
        if not self.job.wait(lambda: self.growth.after("updates", 0, since_s) > 0, BEGIN_SECONDS):
            return False
        self.begin_s = self.growth.after("updates", 0, since_s)
        self._count_descriptors()
        return True

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
        updates = shard_path(self.shards, "updates", 0)
        self.taken.append(scan(updates).rows if updates.exists() else 0)
        self.cuts.append(one)
        self._start("run", "--resume", str(self.out))
        if self._goes_on(begun_s):
            one.recovered_s = self.begin_s - begun_s

    def _segment_ends(self) -> None:
        last_s = self.growth.last("updates", 0)
        self.segments.append(Segment(self.begin_s, last_s, tuple(self.away)))
        self.away = []
        if self.descriptors:  # of one process of rank 0: a cut begins another
            grown = self.descriptors[-1] - self.descriptors[0]
            self.turn.descriptors = max(self.turn.descriptors, grown)
        self.descriptors = []

    def _end(self) -> None:
        begun_s, left_s = perf_counter(), self.plan.turn_s + BEGIN_SECONDS
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
        for one, taken, again in zip(
            self.cuts, self.taken, json.loads(about.get("resumed", "[]")), strict=False
        ):
            one.lost = max(0, taken - int(again["updates"]))
        died = faults[faults["kind"] == FAULT_NUMBERS["rank died"]]
        for one in turn.injected:
            if one.fault.kind == "kill":
                one.lost = int(died["in_flight"][died["rank"] == one.fault.rank].sum())
        if not turn.injected:
            turn.wrong += unequal(messages, ranks["rank"].tolist())

    def _replay(self) -> None:
        """What was recorded must give the same model, bit for bit."""
        job = Job(["replay", str(self.out)], 1, self.folder)
        if not job.wait(lambda: job.over, self.plan.turn_s + BEGIN_SECONDS):
            job.cut()
            self.turn.hung = True
            self.turn.wrong.append("its replay did not end")
            return
        job.close()
        if job.process.returncode != 0:
            self.turn.wrong.append(f"its replay: exit code {job.process.returncode}: {job.last_words()}")

    def _fails(self, what: str) -> None:
        self.turn.wrong.append(f"{what}: {self.job.last_words()}")


def unequal(messages: np.ndarray, ranks: Sequence[int]) -> list[str]:
    """Pairs of ranks that all lived, of which one has sent other numbers of messages than the other has received."""
    size = max(ranks, default=0) + 1
    pairs = messages["src"].astype(np.int64) * size + messages["dst"]
    sent, received = (np.bincount(pairs[messages["end"] == end], minlength=size * size) for end in (0, 1))
    return [
        f"rank {pair // size} sent {sent[pair]} messages to rank {pair % size}, which received {received[pair]}"
        for pair in np.nonzero(sent != received)[0].tolist()
    ]
