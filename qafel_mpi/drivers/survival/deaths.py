"""A rank that dies: how the others hear of it, and whether the run goes on without it.

Where the MPI library survives a death (transport/mortal.py), a run goes on without a client rank if the driver and
the experiment can do without: see `why_it_ends`. Rank 0 can't be done without, nor any rank before the run has begun.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn, Protocol

from mpi4py import MPI

from qafel_mpi.config import Experiment
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.transport import mortal
from qafel_mpi.transport.backoff import WaitedTooLongError
from qafel_mpi.transport.failures import Failures, Nobody, RankDiedError
from qafel_mpi.transport.placement import Placement
from qafel_mpi.transport.star import Wait

SAID_SECONDS = 0.3  # a launcher passes nothing on of a process that has died
NOT_BEGUN = "the run had not begun yet"


def why_it_ends(experiment: Experiment) -> str:
    """Why a client rank's death ends this run, in words; empty where it goes on."""
    transport = experiment.transport
    if transport.ranks is not None:
        return f"transport.ranks = {transport.ranks}, and the ranks left out wait for all that take part"
    if experiment.server.pull:
        return "server.pull = true, and a client's model is lost with its rank"
    if experiment.clock.kind == "virtual":
        lost = "client.error_feedback = true, and a worker takes the clients' residuals with it"
        return lost if experiment.client.error_feedback else ""
    if transport.broadcast != "fanout":
        return (
            f"transport.broadcast = '{transport.broadcast}' needs every rank; with 'fanout' the run goes on"
        )
    return ""


class Deaths:
    """Of one run, on one rank. hosts: of the ranks from rank 0 on, as far as they are known here.

    why: why a client rank's death ends the run; empty from when it goes on without.
    """

    def __init__(self, comm: MPI.Intracomm, hosts: Sequence[str] = ()):
        self.noticed = mortal.survives() and comm.size > 1
        self.failures = Failures(comm) if self.noticed else Nobody()
        self._comm, self.hosts = comm, hosts
        self.why = NOT_BEGUN

    def begin(self, experiment: Experiment, wait: Wait) -> None:
        """Collective: the run begins, and from here on a rank may die."""
        if self.noticed:
            wait(self._comm.Ibarrier().Test, "the other ranks to begin")
        self.why = self.why if self.why != NOT_BEGUN else why_it_ends(experiment)

    def warn(self, say: Callable[[str], None]) -> None:
        """Say beforehand, on rank 0, that a death will end the run where others go on."""
        if self.noticed and self.why and self._comm.rank == 0:
            say(f"the death of a client rank will end this run: {self.why}")

    def look(self) -> None:
        """Never waits. Raises RankDiedError where a rank has died that the run can't do without."""
        self.failures.look()
        if self.failures.gone and (self.why or 0 in self.failures.gone):
            raise self.error()

    @property
    def endured(self) -> bool:
        """This rank's death, if it is a client, would not end the run."""
        return self.noticed and not self.why

    def fresh(self) -> list[int]:
        """Client ranks that have died and were not named here before."""
        return self.failures.fresh()

    def host_of(self, rank: int) -> str:
        """Empty where it is not known here: rank 0 knows every rank's, the others rank 0's."""
        return self.hosts[rank] if 0 <= rank < len(self.hosts) else ""

    def named(self, rank: int) -> str:
        host = self.host_of(rank)
        return f"rank {rank} on {host}" if host else f"rank {rank}"

    def error(self) -> RankDiedError:
        self.failures.look()
        gone = sorted(self.failures.gone) or [0]
        if 0 in gone:  # of the others the run might have done without
            return RankDiedError(f"{self.named(0)} has died, and the run can't go on without the server")
        return RankDiedError(f"{' and '.join(map(self.named, gone[:8]))} has died; {self.why}")


class Session(Protocol):
    """What is needed here of drivers/session.py's."""

    comm: MPI.Intracomm
    placement: Placement
    recorder: Recorder
    deaths: Deaths

    def fault(self, kind: str, rank: int, *, detail: str = "") -> None: ...


@contextmanager
def naming_the_dead(session: Session) -> Iterator[None]:
    """What MPI says of a dead rank becomes RankDiedError, with a row of /faults on rank 0."""
    try:
        yield
    except RankDiedError:
        _write_down(session)
        raise
    except MPI.Exception as error:
        if not session.deaths.noticed or not mortal.is_death(error):
            raise
        _write_down(session)
        raise session.deaths.error() from None


def _write_down(session: Session) -> None:
    if session.comm.rank == 0:
        with suppress(Exception):  # the job ends with its reason, whatever the disk says
            for rank in session.deaths.fresh():
                session.fault("rank died", rank, detail=session.deaths.why)
            session.recorder.flush()


@contextmanager
def dying_alone(session: Session) -> Iterator[None]:
    """Around what a client rank does: what is raised there ends this rank, and not the run, where that goes on."""
    try:
        with exits_said(session):
            yield
    except (RankDiedError, WaitedTooLongError):
        raise
    except (Exception, SystemExit) as error:
        hears_of_rank_0 = isinstance(error, MPI.Exception) and mortal.is_death(error)
        if hears_of_rank_0 or session.comm.rank == 0 or not session.deaths.endured:
            raise
        with suppress(Exception):
            session.recorder.flush()
        lines = "".join(traceback.format_exception(error))
        die(f"rank {session.comm.rank} on {session.placement.host}: failed\n{lines}")


@contextmanager
def exits_said(session: Session) -> Iterator[None]:
    """A client's code that calls os._exit is heard of at once: of codes other than 0 the launcher says nothing."""
    exit_now, own = os._exit, os.getpid()

    def leave(status: int) -> NoReturn:
        if os.getpid() == own:  # not in a child that was forked from here
            die(f"rank {session.comm.rank} on {session.placement.host}: exits with {status}")
        exit_now(status)

    heard = session.comm.rank > 0 and session.deaths.endured
    if heard:
        os._exit = leave
    try:
        yield
    finally:
        os._exit = exit_now


def die(why: str) -> NoReturn:
    """End this process so that the others hear of it at once: MPI sees any end but that by a signal later."""
    with suppress(OSError, ValueError, AttributeError):
        print(f"qafel-mpi: {why}".rstrip(), file=sys.__stderr__, flush=True)
    time.sleep(SAID_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit(1)
