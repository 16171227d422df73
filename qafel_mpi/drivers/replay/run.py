"""A replay on the ranks of a communicator: rank 0 has the server, the others train; or one process does all."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from mpi4py import MPI
from torch import Tensor

from qafel_mpi.algorithms.server import Server
from qafel_mpi.config import ConfigError, Experiment, from_toml, to_toml
from qafel_mpi.drivers.arithmetic import arithmetics
from qafel_mpi.drivers.build import Interrupted, Setup, build, compute_device, visible_gpus
from qafel_mpi.drivers.fingerprints import fingerprints, package
from qafel_mpi.drivers.ledger import Ledger
from qafel_mpi.drivers.replay import same
from qafel_mpi.drivers.replay.again import TABLES_AGAIN, Again
from qafel_mpi.drivers.replay.plan import OfTheSchedule, OfTheTrace, Plan
from qafel_mpi.drivers.replay.recorded import Recorded, ReplayError, read
from qafel_mpi.drivers.replay.repeat import Repeat
from qafel_mpi.drivers.replay.verdict import Verdict, verdict
from qafel_mpi.drivers.replay.walk import Replay
from qafel_mpi.drivers.session import NOWHERE, Session, begin, giving_the_name_up
from qafel_mpi.drivers.survival.stopping import Stopped, StopsWhen
from qafel_mpi.drivers.virtual.planned import planned
from qafel_mpi.drivers.virtual.settling import SettlingWorkers
from qafel_mpi.drivers.virtual.worker import Worker
from qafel_mpi.drivers.virtual.workers import LocalWorkers, Trainer, Workers
from qafel_mpi.tasks.base import Poll
from qafel_mpi.trace.shards import TraceError
from qafel_mpi.transport.coverage import coverage
from qafel_mpi.transport.exchange import broadcast_text
from qafel_mpi.transport.placement import place
from qafel_mpi.transport.window import HostArrays

SLICE = 256  # uploads between two looks at interrupts
Look = Callable[[Replay], None]
Told = Callable[[Replay], None]


@dataclass
class Opened:
    """A replay that can begin. replay, workers, again: of rank 0 alone. shared: all ranks end with one x̂."""

    session: Session
    setup: Setup
    shared: bool
    replay: Replay | None = None
    workers: Workers | None = None
    again: Again | None = None


@contextmanager
def opened(
    path: Path,
    comm: MPI.Intracomm | None = None,
    out: Path = NOWHERE,
    *,
    anyway: bool = False,
    data_dir: Path | None = None,
    command_line: list[str] | None = None,
    bind: bool = True,
    interrupted: Interrupted = lambda: False,
) -> Iterator[Opened]:
    """Collective: read the trace (on rank 0), build what it ran, and refuse what would not give the same bits.

    out: the replay's own trace. bind: this process to its cores. Raises ReplayError on all ranks alike, and
    ConfigError and DataError as the run would.
    """
    comm = comm or MPI.COMM_SELF
    recorded, about = _told(comm, path)
    experiment, gpus = about.experiment, visible_gpus() if about.gpu else ()
    spot = place(comm, gpus=gpus, share_gpus=experiment.transport.share_gpus, bind=bind)
    session = begin(experiment, comm, spot, out, command_line or sys.argv, tables=TABLES_AGAIN)
    session.deaths.why = "a replay needs every rank"
    with HostArrays(comm, session.wait, share=experiment.transport.shared_data) as memory:
        with giving_the_name_up(out) if out != NOWHERE else nullcontext():
            setup = build(
                experiment,
                clients=about.clients,
                device=compute_device(spot.gpu),
                threads=1,
                data_dir=data_dir,
                checksum=coverage(comm, experiment.transport.checksum, local_ranks=spot.local_ranks),
                memory=memory,
            )
            plan = _compared(comm, recorded, setup, spot.gpu, anyway=anyway)
        session.open(setup)
        found = Opened(session, setup, shared=not (setup.unicast or about.step_failed))
        if recorded is not None and plan is not None:
            _furnish(found, recorded, plan, StopsWhen(interrupted), anyway=anyway, gpus=bool(gpus))
        yield found


def run(
    path: Path,
    comm: MPI.Intracomm | None = None,
    out: Path = NOWHERE,
    *,
    to: int | None = None,
    break_at: int | None = None,
    anyway: bool = False,
    data_dir: Path | None = None,
    command_line: list[str] | None = None,
    interrupted: Interrupted = lambda: False,
    look: Look | None = None,
    tell: Told | None = None,
) -> Verdict:
    """Collective: replay a trace, to its end, to a version, or to just before an upload; the verdict on every rank.

    break_at: a row of /updates. look: called on rank 0 where the replay has ended, before it is closed. tell: called
    there from time to time.
    """
    with opened(
        path,
        comm,
        out,
        anyway=anyway,
        data_dir=data_dir,
        command_line=command_line,
        interrupted=interrupted,
    ) as here:
        session = here.session
        if here.replay is None or here.workers is None:
            worker = Worker(session, here.setup)
            worker.run()
            _close(here, worker.replica.version, worker.replica.x_hat, worker.sends.total, worker.received)
            if session.out != NOWHERE:
                session.finish(None, None)
            return Verdict.of_json(broadcast_text(session.comm, ""))
        replay, workers, again = here.replay, here.workers, here.again
        _refuse_beyond(replay.recorded, to, break_at)
        if again is not None:
            again.ledger.open()
        begun_s = perf_counter()
        stopped = _go(replay, session, to, break_at, interrupted, tell)
        seconds = perf_counter() - begun_s
        if look is not None:
            look(replay)
        found = verdict(
            replay,
            seconds=seconds,
            ranks=session.comm.size,
            out=str(out) if session.out != NOWHERE else "",
            interrupted=stopped,
        )
        workers.halt()
        if again is not None:
            again.end(whole=replay.ended)
        workers.stop()
        server = replay.server
        _close(here, server.version, server.x_hat, workers.sent, workers.received)
        if again is not None:
            same_end = {"x": found.x_same, "x_hat": found.x_hat_same}
            session.attributes["replay_of"] = {"trace": str(path.absolute()), "same": same_end}
            session.finish(again.ledger, server.x, **again.attributes())
        return Verdict.of_json(broadcast_text(session.comm, found.to_json()))


def _go(
    replay: Replay,
    session: Session,
    to: int | None,
    break_at: int | None,
    interrupted: Interrupted,
    tell: Told | None,
) -> bool:
    """Returns whether the user has interrupted it."""
    try:
        return _go_on(replay, session, to, break_at, interrupted, tell)
    except Stopped:
        return True


def _go_on(
    replay: Replay,
    session: Session,
    to: int | None,
    break_at: int | None,
    interrupted: Interrupted,
    tell: Told | None,
) -> bool:
    while True:
        session.keep_books()
        if tell is not None:
            tell(replay)
        if interrupted():
            return True
        if not replay.run(version=to, upload=break_at, most=SLICE) or replay.there(to, break_at):
            return False


def _refuse_beyond(recorded: Recorded, to: int | None, break_at: int | None) -> None:
    if to is not None and to > recorded.steps:
        raise ReplayError(f"--to {to}: the run ended at version {recorded.steps}")
    if break_at is not None and break_at >= len(recorded.updates):
        raise ReplayError(
            f"--break-at {break_at}: the run's last upload is number {len(recorded.updates) - 1}"
        )


@dataclass(frozen=True)
class About:
    """What every rank has to know of the run. gpu: it computed on GPUs."""

    experiment: Experiment
    clients: int
    gpu: bool
    step_failed: bool


def _told(comm: MPI.Intracomm, path: Path) -> tuple[Recorded | None, About]:
    """Collective: what rank 0 reads of the trace, and what it tells the others."""
    recorded = None
    about: dict[str, Any] = {}
    if comm.rank == 0:
        try:
            recorded = read(path)
        except (ReplayError, TraceError, ConfigError) as error:
            about = {"error": str(error)}
        else:
            devices = [one.get("device") == one.get("cpu") for one in recorded.part("arithmetic") or []]
            about = {
                "experiment": to_toml(recorded.experiment),
                "clients": recorded.clients,
                "gpu": not all(devices),
                "step_failed": recorded.step_failed,
            }
    about = json.loads(broadcast_text(comm, json.dumps(about)))
    if "error" in about:
        raise ReplayError(about["error"])
    return recorded, About(**about | {"experiment": from_toml(about["experiment"])})


def _compared(
    comm: MPI.Intracomm, recorded: Recorded | None, setup: Setup, gpu: int | None, *, anyway: bool
) -> Plan | None:
    """Collective: the plan, on rank 0. Raises ReplayError on all ranks alike where something differs."""
    sums, plan, refused = arithmetics(comm, gpu), None, ""
    if recorded is not None:
        here = {"package": package(), **fingerprints(setup)}
        differences = same.what_differs(recorded, here, sums)
        try:
            if anyway:
                for line in differences:
                    print(f"qafel-mpi: {line}", file=sys.stderr, flush=True)
            else:
                same.refuse(recorded, differences)
            plan = _plan(recorded, setup)
        except (ReplayError, ConfigError) as error:
            refused = str(error)
    if refused := broadcast_text(comm, refused):
        raise ReplayError(refused)
    return plan


def _plan(recorded: Recorded, setup: Setup) -> Plan:
    task = setup.task
    if recorded.wall:
        most = 1 if setup.alone or not task.same_bits_together else task.together
        return OfTheTrace(recorded, most)
    together = 1 if setup.alone else task.together
    return OfTheSchedule(recorded, planned(recorded.experiment), together=together)


def _furnish(found: Opened, recorded: Recorded, plan: Plan, poll: Poll, *, anyway: bool, gpus: bool) -> None:
    """On rank 0: server, workers, and the books where there is to be a trace."""
    session, setup = found.session, found.setup
    server = setup.server()
    found.workers = workers = _workers(session, setup, server, poll, gpus=gpus)
    if session.out != NOWHERE:
        session.dropped = int(recorded.attributes.get("dropped_messages", 0))
        found.again = Again(recorded, Ledger(setup, server, session.recorder, None, workers.evaluate))
    found.replay = Replay(
        recorded,
        setup,
        plan,
        server,
        workers,
        anyway=anyway,
        observe=found.again.handed_in if found.again else None,
        observe_step=found.again.stepped if found.again else None,
        repeat=None
        if setup.kept or not isinstance(workers, LocalWorkers)
        else Repeat(recorded, setup, workers, session.recorder),
    )


def _workers(session: Session, setup: Setup, server: Server, poll: Poll, *, gpus: bool) -> Workers:
    if session.comm.size > 1:
        return SettlingWorkers(session, setup, gpus=gpus, poll=poll)
    return LocalWorkers(setup, Trainer(setup, setup.client_of(server.replica), session.recorder), poll)


def _close(here: Opened, version: int, x_hat: Tensor, sent: int, received: int) -> None:
    here.session.close(version, x_hat, sent=sent, received=received, shared_state=here.shared)
