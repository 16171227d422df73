"""What every run does before its first step and after its last: place, agree, synchronise, record, merge."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from threading import get_ident
from time import perf_counter
from typing import Any

from mpi4py import MPI
from torch import Tensor

from qafel_mpi import startup, wire
from qafel_mpi.config import Experiment, to_toml
from qafel_mpi.drivers.arithmetic import arithmetics
from qafel_mpi.drivers.attributes import attributes_of
from qafel_mpi.drivers.build import RunSummary, Setup
from qafel_mpi.drivers.facts import energy_of, host_facts, hosts, rank_row
from qafel_mpi.drivers.fingerprints import fingerprints, package
from qafel_mpi.drivers.ledger import Ledger
from qafel_mpi.drivers.provenance import provenance
from qafel_mpi.drivers.survival import resume as resuming
from qafel_mpi.drivers.survival.checkpoints import Checkpoints, Recovery
from qafel_mpi.drivers.survival.deaths import Deaths, die
from qafel_mpi.drivers.survival.disk import DiskFaults, tell
from qafel_mpi.drivers.survival.every import DEFAULT, Every
from qafel_mpi.drivers.survival.watchdog import EXIT_CODE, LOOKS, Watchdog
from qafel_mpi.drivers.warmup import say_once, say_what_to_know, warm_up
from qafel_mpi.trace.claim import release
from qafel_mpi.trace.merge import digest, shards_of
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace.shards import TraceError
from qafel_mpi.trace_schema import TABLES
from qafel_mpi.transport import handshake, placement
from qafel_mpi.transport.backoff import Backoff, wait_until
from qafel_mpi.transport.clocks import Answering, Asking, ClockReading, clocks
from qafel_mpi.transport.exchange import broadcast_text, gather_text
from qafel_mpi.transport.placement import some_hosts
from qafel_mpi.transport.star import Star, Together

TAG_DOWN, TAG_UP = 11, 12
STARTING_SECONDS = 600.0  # that ranks may wait before the run, at least
NOWHERE = Path()  # in a trace's place: nothing is recorded
LONGEST_SILENCE_S = 60.0  # of rank 0, however seldom it is to ask for the time


class HiddenStateError(RuntimeError):
    """Ranks ended with different hidden states for the same version: a bug, or memory that lies."""


@dataclass
class Session:
    """One run on one rank."""

    experiment: Experiment
    comm: MPI.Intracomm
    placement: placement.Placement
    out: Path
    recorder: Recorder
    backoff: Backoff
    attributes: dict[str, Any]
    origin_s: float = 0.0
    disk: DiskFaults = field(default_factory=lambda: DiskFaults(go_on=False))
    syncs: dict[int, int] = field(default_factory=dict)  # the last of each rank
    clocks: Asking | Answering = field(init=False)
    dropped: int = 0
    memory_due_s: float = 0.0  # the next row of /memory
    heard_s: float = field(default_factory=perf_counter)  # when rank 0 asked last what time it is here
    is_open: bool = False  # the run goes on, or is over
    alive_s: float = field(default_factory=perf_counter)  # when this rank was last where it waits or polls
    recovery: Recovery = field(default_factory=Recovery)  # from checkpoints

    def __post_init__(self) -> None:
        limit_s = self.experiment.transport.watchdog_s
        self.deaths = Deaths(self.comm, self.placement.hosts)
        self.watchdog = Watchdog(limit_s, lambda: self.alive_s, self._end_job)

    def shows_life(self) -> None:
        """This rank's main thread has come by: it hangs nowhere."""
        if get_ident() == self.watchdog.main:  # not a thread beside it, which may go on while that hangs
            self.alive_s = perf_counter()

    def _end_job(self, why: str) -> None:
        """From the watchdog's thread: this rank's main thread hangs."""
        where = f"rank {self.comm.rank} on {self.placement.host}"
        if self.comm.rank and self.deaths.endured:
            die(f"{where}: {why}")
        merge = f"`qafel-mpi merge {self.recorder.directory}` makes a trace of what was recorded"
        print(f"{where}: {why}\nqafel-mpi: {merge}", file=sys.__stderr__, flush=True)
        self.comm.Abort(EXIT_CODE)
        os._exit(EXIT_CODE)

    @property
    def patience_s(self) -> float:
        return self.experiment.transport.patience_seconds

    @property
    def watchdog_s(self) -> float:
        """How long something may be waited for in vain. To load data and compile takes its time."""
        limit_s = self.experiment.transport.watchdog_s
        return limit_s if self.is_open else max(limit_s, STARTING_SECONDS)

    @property
    def clock_period_s(self) -> float:
        """Between two questions for a rank's time, which also show both ends that the other one lives."""
        transport = self.experiment.transport
        return min(transport.clock_seconds, transport.watchdog_s / LOOKS)

    def now_s(self) -> float:
        """Seconds since the run began, on this rank's clock."""
        return perf_counter() - self.origin_s

    def open(self, setup: Setup) -> None:
        """Collective: handshake, clocks, the run's attributes. Raises HandshakeError on every rank alike."""
        answers = fingerprints(setup)
        self._agree(answers)
        resuming.prepare(self, answers)
        copied = self._why_data_are_copied(setup)
        if self.comm.rank == 0:
            say_what_to_know(setup)
            if copied:
                say_once(f"each rank keeps a copy of the data: {some_hosts(copied)}")
            for text in self.placement.remarks:
                print(f"qafel-mpi: {text}", file=sys.stderr, flush=True)
        warm_up(setup, self.comm, self.wait)
        startup.passed("kernels and trial training")
        transport = self.experiment.transport
        self.clocks = clocks(
            self.comm, rounds=transport.clock_rounds, every_s=self.clock_period_s, clock=perf_counter
        )
        self._record(self.clocks.synchronise(self._wait_with_all))
        if not self.recovery.goes_on:
            self.origin_s = self.attributes["origin_s"] = perf_counter()
        machines, sums = self._machines(), arithmetics(self.comm, self.placement.gpu)
        if self.comm.rank == 0:
            machine = {"hosts": machines, "arithmetic": sums, "ranks": self.comm.size}
            self.attributes |= machine | attributes_of(self.experiment, setup, answers)
            if self.out != NOWHERE:
                self.disk.begin(self.recorder.directory, self.attributes)
                every = Every(never=True) if self.disk.untaken else self.recovery.every
                self.recovery.checkpoints = Checkpoints(self.recorder.directory, every)
        self.recorder.ranks.replace(rank_row(self.placement))
        self.deaths.begin(self.experiment, self._wait_with_all)
        self.is_open = True
        self.deaths.warn(say_once)
        self.energy = energy_of(self.placement)
        self.energy.start()
        if self.comm.size > 1:
            self.watchdog.start()

    @cached_property
    def _ends(self) -> Together | Star:
        """What the ranks do together at the end."""
        if self.deaths.endured:
            return Star(self.comm, self._wait_with_all, self.deaths.failures)
        return Together(self.comm, self._wait_with_all)

    def _why_data_are_copied(self, setup: Setup) -> list[str]:
        """Collective: of each host on which ranks share no memory, why; on rank 0."""
        why = setup.why_copied if self.placement.local_rank == 0 else ""
        return list(filter(None, gather_text(self.comm, why and f"{self.placement.host}: {why}")))

    def _machines(self) -> list[dict[str, Any]]:
        """Collective: what the hosts are, on rank 0; the first rank of each tells."""
        mine = host_facts() if self.placement.local_rank == 0 else {"host": self.placement.host}
        return hosts(map(json.loads, gather_text(self.comm, json.dumps(mine))))

    def _agree(self, answers: dict[str, str]) -> None:
        handshake.agree(
            self.comm,
            answers,
            hosts=self.placement.hosts,
            patience_s=self.patience_s,
            backoff=self.backoff,
            limit_s=self.watchdog_s,
        )

    def keep_books(self) -> None:
        """From a driver's loop: clocks, rank 0's memory, rows that are due to be written. Never waits.

        Rank 0 reads the other ranks' clocks every so often, and they answer.
        """
        self.shows_life()
        self.deaths.look()
        if readings := self.clocks.poll():
            self._record(readings)
        if self.clocks.heard:
            self.heard_s = perf_counter()
            # To hear rank 0 is enough: it ends the job where it waits in vain itself, whoever tells it the time.
            (self.backoff.moved if self.comm.rank else self.backoff.reset)()
        if self.comm.rank == 0 and self.now_s() >= self.memory_due_s:
            self._weigh()
        self.recorder.flush_if_due()

    def fault(
        self,
        kind: str,
        rank: int,
        *,
        client: int = -1,
        version: int = -1,
        in_flight: int = 0,
        detail: str = "",
    ) -> None:
        """A row of /faults, noticed here and now. kind: one of trace_schema.FAULT_NAMES; rank: whose fault it is."""
        host = self.placement.host if rank == self.comm.rank else self.deaths.host_of(rank)
        self.recorder.fault(
            kind, rank=rank, host=host, client=client, version=version, in_flight=in_flight, detail=detail
        )

    def _weigh(self) -> None:
        """A row of /memory: some 20 µs."""
        now_s = self.now_s()
        self.recorder.memory.append((now_s, placement.resident_bytes()))
        self.memory_due_s = now_s + self.experiment.trace.flush_seconds

    def _record(self, readings: Iterable[ClockReading]) -> None:
        """Rows of /clock."""
        for r in readings:
            sync = self.syncs[r.rank] = self.syncs.get(r.rank, -1) + 1
            local_s, offset_s = self.recovery.on_clock_of_before(r.rank, r.local_s, r.offset_s)
            self.recorder.clock.append((r.rank, sync, local_s, offset_s, float("nan"), r.error_bound_s))

    def close(
        self, version: int, x_hat: Tensor, *, shared_state: bool, compare: bool = True, **counts: int
    ) -> None:
        """Collective: the last clock readings, this rank's row, and the check that all hold the same x̂.

        shared_state: on all ranks alike, False where each client downloads its own copy (unicast), and there is
        nothing to check. compare: False on rank 0 where it knows that they differ. counts: messages sent, received.
        """
        self._record(self.clocks.synchronise(self._wait_with_all))
        self.heard_s = perf_counter()
        self.clocks.close()
        own = digest(x_hat.cpu().numpy())
        if self.comm.rank == 0:
            self._weigh()
        if shared_state:
            self._check_digests(version, own, compare)
        ends = counts | {"version": version, "dropped": self.dropped, "rows_written": self.recorder.rows}
        self.recorder.ranks.replace(rank_row(self.placement, x_hat_digest=own, **ends))
        self.recorder.close()
        self._ends.meet("the other ranks to write their shards")
        self.attributes |= self.energy.stop(self._ends.gather, self.comm.size, resumed=self.recovery.goes_on)
        self.watchdog.stop()

    def finish(self, ledger: Ledger | None, x: Tensor | None, **totals: Any) -> RunSummary:
        """Collective: merge on rank 0; its summary on every rank."""
        if ledger is None or x is None:
            return self._shared(RunSummary())
        counts = ledger.totals()
        outcome = ledger.reason or "finished"
        self.attributes |= self.recovery.end(self.out, outcome)
        x_hat = ledger.server.x_hat.numpy()
        self.attributes |= counts | totals | {"outcome": outcome, "dropped_messages": self.dropped}
        vectors, directory = {"x": x.numpy(), "x_hat": x_hat}, self.recorder.directory
        remove = not self.recovery.needs_shards
        merged = self.disk.complete(directory, self.out, self.attributes, remove=remove, **vectors)
        if merged is not None:
            tell(merged, directory, self.placement.hosts)
            if (lost := sum(merged.missing_rows.values())) and not self.disk.go_on:
                outcome = f"failed: {lost:,} recorded rows are not in the trace"
        totals |= counts | {
            "uploads_to_target": ledger.uploads_to_target,
            "outcome": outcome,
            "target_reached": ledger.target_reached(),
            "interrupted": outcome.startswith("interrupted"),
            "trace": "" if merged is None else str(merged.path),
            "algorithm": self.experiment.algorithm_label,
            "seed": self.experiment.seed,
            "dropped_messages": self.dropped,
            "x_digest": digest(x.numpy()),
        }
        summary = RunSummary(**{k: v for k, v in totals.items() if k in RunSummary.__dataclass_fields__})
        return self._shared(summary)

    def _shared(self, summary: RunSummary) -> RunSummary:
        """Collective: rank 0's. To merge may take it minutes."""
        self._ends.meet("rank 0 to merge what the ranks have recorded")
        whole = asdict(summary) | {"lost_ranks": len(self.deaths.failures.gone)}
        return RunSummary(**json.loads(self._ends.broadcast(json.dumps(whole))))

    def wait(self, ready: Callable[[], bool], what: Callable[[], str]) -> None:
        """Poll until ready; say on stderr who waits for what when it takes long. what: empty to say nothing."""

        def say() -> str:
            text = what()
            return f"rank {self.comm.rank} on {self.placement.host} waits for {text}" if text else ""

        def look() -> bool:
            self.shows_life()
            self.deaths.look()
            return ready()

        wait_until(look, say, patience_s=self.patience_s, backoff=self.backoff, limit_s=self.watchdog_s)

    def by_one(self, what: str) -> str:
        """For `wait`: what many ranks wait for because of rank 0. Rank 0 says it, while it can.

        Where it has not even asked for the time when that was due, rank 1 and the first rank of each host do.
        """
        if self.comm.rank == 0:
            return what
        silent_s = perf_counter() - self.heard_s
        due_s = min(min(self.clock_period_s, LONGEST_SILENCE_S) + self.patience_s, self.watchdog_s)
        speaks = self.comm.rank == 1 or self.placement.local_rank == 0
        return what if speaks and silent_s >= due_s else ""

    def _wait_with_all(self, ready: Callable[[], bool], what: str) -> None:
        self.wait(ready, lambda: self.by_one(what))

    def _check_digests(self, version: int, own: str, compare: bool) -> None:
        """Collective. The hidden state of one version is the same on every rank: checked in every run."""
        digests = {rank: text.split() for rank, text in self._ends.gather(f"{version} {own}").items()}
        for rank, (their_version, theirs) in digests.items():
            if compare and (their_version, theirs) != (str(version), own):
                found = f"hidden state {theirs[:16]}… of version {their_version}"
                raise HiddenStateError(
                    f"rank {rank} ends with {found}, rank 0 with {own[:16]}… of version {version}"
                )


@contextmanager
def giving_the_name_up(out: Path) -> Iterator[None]:
    """What is raised here, before anything is recorded, leaves nothing behind under the trace's name."""
    try:
        yield
    except BaseException:
        release(shards_of(out))
        raise


def begin(
    experiment: Experiment,
    comm: MPI.Intracomm,
    place: placement.Placement,
    out: Path,
    command_line: list[str],
    *,
    tables: Collection[str] = tuple(TABLES),
    every: Every = DEFAULT,
    resume: Path | None = None,
) -> Session:
    """Collective: the session of one rank, when all ranks run the same program with one folder.

    out: the trace file, RUN.h5, or NOWHERE; tables: of it. Rank 0 takes the name, and removes shards that an earlier
    run left there, before others write. (The command refuses an existing name unless told to overwrite.)
    every: how often it writes a checkpoint. resume: the one to go on from, which it reads.
    Raises HandshakeError, or TraceError where another process has the name or the folder can't be written (unless the
    run is to go on without a trace), on every rank alike: before data are loaded, which takes long.
    """
    recorded = out != NOWHERE
    disk = DiskFaults(experiment.trace.on_error == "go on", speaks=place.local_rank == 0)
    refused = disk.take_name(out) if comm.rank == 0 and recorded and resume is None else ""
    where = shards_of(out) if recorded else NOWHERE
    recorder = Recorder(where, comm.rank, flush_seconds=experiment.trace.flush_seconds, on_error=disk)
    recorder.keep_only(tables if recorded else ())
    session = Session(
        experiment=experiment,
        comm=comm,
        placement=place,
        out=out,
        recorder=recorder,
        disk=disk,
        backoff=Backoff(crowded=place.crowded),
        attributes=provenance(command_line) if comm.rank == 0 else {},
        origin_s=perf_counter(),
        recovery=Recovery(every, goes_on=resume is not None),
    )
    disk.noticed = lambda detail: session.fault("disk", comm.rank, detail=detail)
    if resume is not None and comm.rank == 0:
        refused = resuming.take_up(session, resume)
    answers = {
        "mpi": placement.mpi_library(),
        "protocol": wire.MAGIC.decode(),
        "package": package(),
        "experiment": handshake.digest(to_toml(experiment).encode()),
    }
    session._agree(answers)
    told = broadcast_text(comm, json.dumps([refused, disk.untaken, place.host]))
    refused, disk.untaken, host = json.loads(told)
    session.deaths.hosts = session.deaths.hosts or [host]
    if refused:
        raise TraceError(refused)
    if disk.untaken:
        recorder.keep_only(())  # another run's rows may lie there
    elif recorded:
        handshake.same_folder(comm, out, place)
    return session
