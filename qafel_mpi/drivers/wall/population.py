"""The population of a wall run: who hosts whom, by the experiment and its data."""

from __future__ import annotations

import numpy as np

from qafel_mpi.config import Experiment
from qafel_mpi.drivers.build import Setup
from qafel_mpi.schedule.hosting import Hosting, Turns


def population_of(experiment: Experiment, ranks: int) -> int:
    """Clients of a run of so many ranks."""
    return experiment.task.population(experiment.transport.hosts(ranks))


def hosting_of(setup: Setup, ranks: int) -> Hosting:
    """Which client rank of a run of so many ranks hosts which clients: the same on every rank."""
    transport = setup.experiment.transport
    hosts, spares = transport.hosts(ranks), transport.spares
    if setup.experiment.task.clients == "ranks":
        return Hosting.one_each(hosts, spares)
    return Hosting.balanced(setup.task.sizes(), hosts, spares)


def turns_of(rank: int, setup: Setup, hosting: Hosting) -> Turns:
    """The clients that a rank plays, from its first turn on."""
    clients, draw = hosting.of(rank - 1), setup.experiment.client.draw
    some = clients.tolist() if draw == "examples" else []
    examples = np.fromiter(map(setup.task.examples, some), np.int64, len(some))
    return Turns(clients, examples, draw=draw, seed=setup.experiment.seed, rank=rank)
