"""The wall-clock driver: rank 0 is the buffered server, every other rank a client that trains without pause.

Every client rank hosts a share of the clients and plays one after the other, each on the newest hidden state that it
has; broadcasts are received and applied meanwhile (Algorithm 3). Staleness is what the machine makes it. This is the
communication benchmark. The two ends: server.py, client.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mpi4py import MPI

from qafel_mpi import startup
from qafel_mpi.config import ConfigError, Experiment
from qafel_mpi.drivers.build import (
    Interrupted,
    Report,
    RunSummary,
    build,
    compute_device,
    visible_gpus,
)
from qafel_mpi.drivers.memory import refuse_what_does_not_fit
from qafel_mpi.drivers.session import begin, giving_the_name_up
from qafel_mpi.drivers.survival.deaths import dying_alone, naming_the_dead, why_it_ends
from qafel_mpi.drivers.survival.every import DEFAULT, Every
from qafel_mpi.drivers.wall.client import WallClient
from qafel_mpi.drivers.wall.population import hosting_of, population_of
from qafel_mpi.drivers.wall.pull import PullClient
from qafel_mpi.drivers.wall.server import WallServer
from qafel_mpi.transport.coverage import coverage
from qafel_mpi.transport.mortal import survives
from qafel_mpi.transport.placement import THREAD_LEVELS, place
from qafel_mpi.transport.window import HostArrays


def run(
    experiment: Experiment,
    comm: MPI.Intracomm,
    out: Path,
    *,
    data_dir: Path | None = None,
    command_line: list[str] | None = None,
    interrupted: Interrupted = lambda: False,
    report: Report | None = None,
    every: Every = DEFAULT,
    resume: Path | None = None,
) -> RunSummary:
    """Collective: run the experiment on the ranks of comm and write the trace file `out`.

    The same summary on every rank. every: how often rank 0 writes a checkpoint. resume: the one to go on from.
    Raises ConfigError and DataError where the experiment can't run.
    """
    refuse_impossible(experiment, comm.size, MPI.Query_thread())
    spot = place(comm, gpus=visible_gpus(), share_gpus=experiment.transport.share_gpus)
    session = begin(experiment, comm, spot, out, command_line or sys.argv, every=every, resume=resume)
    startup.passed("placement and handshake")
    device = compute_device(spot.gpu)
    with (
        naming_the_dead(session),
        HostArrays(comm, session.wait, share=experiment.transport.shared_data) as memory,
    ):
        with giving_the_name_up(out):
            setup = build(
                experiment,
                clients=population_of(experiment, comm.size),
                device=device,
                threads=spot.threads,
                data_dir=data_dir,
                checksum=coverage(comm, experiment.transport.checksum, local_ranks=spot.local_ranks),
                memory=memory,
            )
            refuse_what_does_not_fit(setup, comm, spot, checkpoints=not every.never)
        startup.passed("data and model")
        session.open(setup)
        startup.passed("clocks and trace")
        hosting = hosting_of(setup, comm.size)
        with dying_alone(session):
            if comm.rank == 0:
                summary = WallServer(session, setup, hosting, interrupted, report).run()
            else:
                client = (PullClient if setup.pull else WallClient)(session, setup, hosting)
                if resume is not None:
                    client.take_up()
                summary = client.run()
        memory.leave_open = summary.lost_ranks > 0
        return summary


def refuse_impossible(experiment: Experiment, ranks: int, thread_level: int) -> None:
    """Raise ConfigError for what can only hang, crash or make no sense, with the reason.

    thread_level: what the MPI library gives, MPI.Query_thread().
    """
    spares, client_ranks = experiment.transport.spares, experiment.transport.hosts(ranks)
    if spares:
        _refuse_spares(experiment, ranks)
    if client_ranks < 1:
        simulated = "--set clock.kind=virtual"
        if experiment.task.clients == "ranks":
            simulated += " --set task.clients=100"
        raise ConfigError(
            [
                "clock.kind = 'wall' needs a server and at least one client rank: start it as "
                f"`mpirun -n 4 qafel-mpi run ...`, or use {simulated} in one process"
            ]
        )
    # Both of a client's threads call MPI, one at a time: under its lock.
    if experiment.transport.progress == "thread" and thread_level < MPI.THREAD_SERIALIZED:
        raise ConfigError(
            [
                "transport.progress = 'thread' needs MPI_THREAD_SERIALIZED at least, but this MPI library provides "
                f"{THREAD_LEVELS.get(thread_level, thread_level)}: set transport.progress=poll, or load another MPI"
            ]
        )
    server, unicast = experiment.server, experiment.downlink.delivery == "unicast"
    if server.synchronous and unicast:
        raise ConfigError(
            [
                "downlink.delivery = 'unicast' with synchronous rounds: a client downloads right behind its update, "
                "before the round is over, and would wait for ever for the next one; set "
                "downlink.delivery=broadcast, or clock.kind=virtual"
            ]
        )
    clients = experiment.task.population(client_ranks)
    if clients < client_ranks:
        raise ConfigError(
            [
                f"task.clients = {clients}: {ranks} ranks are a server and {client_ranks} client ranks, and each "
                f"hosts at least one client; set task.clients={client_ranks} or more, or task.clients=ranks, or "
                f"start it with `mpirun -n {clients + 1 + spares}`"
            ]
        )
    if server.pull and server.buffer_size > clients:
        raise ConfigError(
            [
                f"server.buffer_size = {server.buffer_size}: with server.pull so many different clients are asked, "
                f"and there are {clients}; set server.buffer_size={clients} at most"
            ]
        )
    if server.synchronous and server.buffer_size > clients:
        raise ConfigError(
            [
                f"server.buffer_size = {server.buffer_size}: a synchronous round waits for that many clients, and "
                f"task.clients = {experiment.task.clients} on {ranks} ranks makes {clients}: it would wait for ever; "
                f"set server.buffer_size={clients} at most, or task.clients to a larger number"
            ]
        )


def _refuse_spares(experiment: Experiment, ranks: int) -> None:
    """Raise ConfigError where spare ranks could never take anything over."""
    spares, delivery = experiment.transport.spares, experiment.downlink.delivery
    why = why_it_ends(experiment)
    if experiment.transport.hosts(ranks) < 1:
        problem = f"of {ranks} ranks one is the server, and none is left to host clients: start more ranks"
    elif not survives():
        problem = "this job ends when a rank dies; start it with `mpirun --with-ft ulfm` of Open MPI 5"
    elif why:
        problem = f"the death of a client rank ends this run all the same: {why}"
    elif delivery == "unicast":
        problem = "with downlink.delivery = 'unicast' ranks share no state that a spare rank could take over"
    else:
        return
    raise ConfigError([f"transport.spares = {spares}: {problem}, or leave transport.spares out"])
