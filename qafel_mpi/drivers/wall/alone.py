"""The trainings of a wall run without its messages: what communication is held against.

Every client rank plays the clients that it would play in a run (drivers/wall/client.py), always from x^0, and encodes
their updates, all ranks at the same time; rank 0 sleeps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter

import numpy as np
from mpi4py import MPI

from qafel_mpi.config import Experiment
from qafel_mpi.drivers.build import Setup, build, compute_device, visible_gpus
from qafel_mpi.drivers.wall.population import hosting_of, population_of, turns_of
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.kernels.memory import vector_like
from qafel_mpi.schedule.hosting import Hosting
from qafel_mpi.transport.backoff import Backoff, sleep_until, wait_until
from qafel_mpi.transport.coverage import coverage
from qafel_mpi.transport.placement import place
from qafel_mpi.transport.window import HostArrays

NAP_SECONDS = 0.02  # rank 0's


def trainings(experiment: Experiment, comm: MPI.Intracomm) -> Callable[[int], np.ndarray]:
    """Collective: bind as a run does, and build what it trains. Returns a collective function of a count:

    so many trainings of every client rank; (client ranks, count) seconds from each one's beginning to the next's on
    rank 0, (0, count) elsewhere. Raises ConfigError and DataError as a run does.
    """
    spot = place(comm, gpus=visible_gpus(), share_gpus=experiment.transport.share_gpus)
    wait = partial(
        wait_until,
        patience_s=experiment.transport.patience_seconds,
        backoff=Backoff(crowded=spot.crowded),
    )
    setup = build(
        experiment,
        clients=population_of(experiment, comm.size),
        device=compute_device(spot.gpu),
        threads=spot.threads,
        data_dir=None,
        checksum=coverage(comm, experiment.transport.checksum, local_ranks=spot.local_ranks),
        memory=HostArrays(comm, wait, share=experiment.transport.shared_data),
    )
    hosting = hosting_of(setup, comm.size)

    def measured(count: int) -> np.ndarray:
        comm.Barrier()
        mine = _periods(setup, hosting, comm.rank, count) if comm.rank else np.zeros(count)
        everyone = np.zeros((comm.size, count)) if comm.rank == 0 else None
        sleep_until(comm.Ibarrier().Test, NAP_SECONDS)
        comm.Gather([mine, MPI.DOUBLE], None if everyone is None else [everyone, MPI.DOUBLE], 0)
        return np.zeros((0, count)) if everyone is None else everyone[1:]

    return measured


def _periods(setup: Setup, hosting: Hosting, rank: int, count: int) -> np.ndarray:
    x0, own = setup.where_trained(setup.x0), setup.client()
    delta, payload = vector_like(x0), np.zeros(setup.uplink.payload_bytes(), dtype=np.uint8)
    turns = turns_of(rank, setup, hosting)
    begun = [perf_counter()]
    for _ in range(count):
        client, participation = turns.next()
        seed = derive(setup.experiment.seed, Stream.SHUFFLE, client, participation)
        setup.task.train(client, x0, delta, seed)
        own.encode(delta, payload, client=client, participation=participation)
        begun.append(perf_counter())
    return np.diff(begun)
