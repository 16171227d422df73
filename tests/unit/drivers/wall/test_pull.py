"""A client rank of a server that asks, as far as one process shows it."""

import numpy as np

from qafel_mpi.drivers.wall.client import WallClient
from qafel_mpi.drivers.wall.pull import PullClient
from qafel_mpi.schedule.hosting import Turns


def test_a_resumed_client_draws_its_batches_by_how_often_it_was_asked_before(monkeypatch):
    """It would train on those of its first period until it is asked again."""
    asked = np.array([7, 0, 3, 9, 5])

    def take_up(client):
        client.turns.go_on(12, asked)

    monkeypatch.setattr(WallClient, "take_up", take_up)
    client = PullClient.__new__(PullClient)
    client.turns = Turns(np.array([1, 2, 4]), np.ones(3), draw="uniform", seed=0, rank=1)
    client.participations = dict.fromkeys([1, 2, 4], 0)
    client.take_up()
    assert client.participations == {1: 0, 2: 3, 4: 5}
