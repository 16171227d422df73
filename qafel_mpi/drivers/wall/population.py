"""The population of a wall run: who hosts whom, by the experiment and its data."""

from __future__ import annotations

import numpy as np

from qafel_mpi.drivers.build import Setup
from qafel_mpi.schedule.hosting import Hosting, Turns


def hosting_of(setup: Setup, client_ranks: int) -> Hosting:
    """Which client rank hosts which clients: the same on every rank."""
    if setup.experiment.task.clients == "ranks":
        return Hosting.one_each(client_ranks)
    return Hosting.balanced(setup.task.sizes(), client_ranks)


def turns_of(rank: int, setup: Setup, hosting: Hosting) -> Turns:
    """The clients that a rank plays, from its first turn on."""
    clients, draw = hosting.of(rank - 1), setup.experiment.client.draw
    some = clients.tolist() if draw == "examples" else []
    examples = np.fromiter(map(setup.task.examples, some), np.int64, len(some))
    return Turns(clients, examples, draw=draw, seed=setup.experiment.seed, rank=rank)
