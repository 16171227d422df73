"""What a client does between two questions of the server."""

import random
from types import SimpleNamespace

import pytest
import torch

from qafel_mpi.config import load
from qafel_mpi.drivers.pulled import Progressing
from tests.simulation.wall import setup_of


@pytest.fixture
def setup():
    world = SimpleNamespace(random=random.Random(0), sleep=lambda seconds: None)
    experiment = load(
        "digits", ["algorithm=quafl", "clock.kind=wall", "task.clients=4", "server.buffer_size=3"]
    )
    return setup_of(experiment, world, SimpleNamespace(ranks=3, step_s=0.0))


def test_a_client_goes_on_from_a_checkpoint_where_it_was_between_two_questions(setup):
    """The next step's batch is drawn by the number of steps since the last question."""
    before, after = Progressing(setup), Progressing(setup)
    for client in (0, 0, 2):
        before.step(client, 3)
    after.restore(before.state())
    for client in (0, 1, 2):
        for one in (before, after):
            one.step(client, 3)
        assert torch.equal(before.models.model(client), after.models.model(client))
        assert before.done(client) == after.done(client)
    assert after.state().keys() == {0, 1, 2}


def test_a_model_of_another_size_is_refused(setup):
    state = Progressing(setup)
    state.step(0, 0)
    ((data, version),) = state.state().values()
    with pytest.raises(ValueError, match="is needed"):
        Progressing(setup).restore({0: (data[4:], version)})
