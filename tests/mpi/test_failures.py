"""A training or evaluation that fails is an outcome of a run on both clocks: with reason and trace, on every rank."""

import numpy as np
import pytest
import torch
from torch import nn

from qafel_mpi.codecs import Layout
from qafel_mpi.config import load
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.drivers.wall import run as wall
from qafel_mpi.tasks import Evaluation, Task, TrainResult
from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace_schema import FAULT_NAMES
from tests.mpi.conftest import same_everywhere

RUNS = {"wall": wall.run, "virtual": virtual.run}


class Fails(nn.Module):
    """After so many passes in training that it is neither in the trial nor in the warm-up."""

    passes = 0

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        Fails.passes += self.training
        if self.training and Fails.passes > 150:
            raise RuntimeError("out of luck")
        return self.linear(x)


def failing(config, shape, classes):
    return Fails()


class EvaluatesBadly(nn.Module):
    """Raises in an evaluation that is neither in the trial nor in the warm-up."""

    passes = 0

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        EvaluatesBadly.passes += not self.training
        if not self.training and EvaluatesBadly.passes > 30:
            raise RuntimeError("out of paper")
        return self.linear(x)


def unreadable(config, shape, classes):
    return EvaluatesBadly()


class FailsLater(Task):
    """A training of one's own; raises what no part of the package knows."""

    def __init__(self, task, client, data, shares, *, dtype, device, seed):
        self.layout, self.dtype, self.device, self.clients = (
            Layout(("x",), ((5,),)),
            dtype,
            device,
            len(shares),
        )
        self.trained = 0

    def initial(self, seed):
        return torch.zeros(5)

    def examples(self, client):
        return 1

    def train(self, client, start, delta, seed, poll=None, *, version=0):
        self.trained += 1
        if self.trained > 20:
            raise LookupError("out of ink")
        delta.fill_(0.1)
        if poll is not None:
            poll()
        return TrainResult(1.0, 1, 1)

    def evaluate(self, x, examples=None):
        return Evaluation(1.0, 0.0, 1)

    def gradient_norm_squared(self, x):
        return 0.0


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("clock", RUNS)
@pytest.mark.parametrize("examples", [50, 360], ids=["one-part", "parts-on-workers"])
def test_an_evaluation_that_raises_is_an_outcome_with_version_reason_and_trace(
    comm, folder, digits, clock, examples
):
    experiment = digits(
        f"clock.kind={clock}",
        "stop.accuracy=1.0",
        "stop.uploads=100000",
        "evaluation.every_steps=1",
        f"evaluation.examples={examples}",
        f"task.model={__name__}:unreadable",
    )
    EvaluatesBadly.passes = 0
    summary = RUNS[clock](experiment, comm, folder / "a.h5")
    assert len(same_everywhere(comm, summary.outcome)) == 1
    assert summary.outcome.startswith("failed: evaluation of version "), summary.outcome
    assert "RuntimeError: out of paper (" in summary.outcome
    assert ("(rank " in summary.outcome) == (clock == "virtual" and examples == 360)
    if comm.rank == 0:
        with open_trace(folder / "a.h5") as trace:
            assert trace.attributes["outcome"] == summary.outcome
            assert len(trace.table("steps")) == summary.server_steps + 1


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("clock", RUNS)
@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["client.learning_rate=1e30"], "the training diverged; lower the learning rate"),
        ([f"task.model={__name__}:failing"], "RuntimeError: out of luck ("),
        ([f"task.training={__name__}:FailsLater"], "LookupError: out of ink ("),
    ],
    ids=["diverges", "raises", "own-training-raises"],
)
def test_a_clients_failure_is_an_outcome_with_client_reason_and_trace(
    comm, folder, digits, clock, overrides, reason
):
    # No target: many clients on a busy machine may reach it before one of them has made its passes.
    experiment = digits(f"clock.kind={clock}", "stop.accuracy=1.0", "stop.uploads=100000", *overrides)
    Fails.passes = 0
    summary = RUNS[clock](experiment, comm, folder / "a.h5")
    assert len(same_everywhere(comm, summary.outcome)) == 1
    assert summary.outcome.startswith("failed: client "), summary.outcome
    assert reason in summary.outcome
    if comm.rank == 0:
        with open_trace(folder / "a.h5") as trace:
            assert trace.attributes["outcome"] == summary.outcome
            faults = trace.table("faults")
            assert {FAULT_NAMES[kind] for kind in faults["kind"].tolist()} == {"client failed"}
            assert reason in faults["detail"][0].decode()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    ("clock", "overrides"),
    [
        ("wall", ["client.learning_rate=1e5"]),
        ("wall", ["client.learning_rate=1e18", "algorithm=quafl", "server.buffer_size=3"]),
        ("virtual", ["client.learning_rate=1e5", "clock.concurrency=30"]),
    ],
    ids=["wall", "wall, asked", "virtual"],
)
def test_a_loss_that_no_float32_holds_is_infinite_in_the_trace_until_the_training_has_diverged(
    comm, folder, clock, overrides
):
    """In float64, with updates that their codec takes still: a loss with a penalty grows with their square."""
    made = ("task.dataset=synthetic", "task.examples=400", "task.clients=30", f"clock.kind={clock}")
    experiment = load("mushrooms", [*made, "stop.loss=1e-9", *overrides])
    summary = RUNS[clock](experiment, comm, folder / "a.h5")
    assert len(same_everywhere(comm, summary.outcome)) == 1
    assert summary.outcome.startswith(("failed: client ", "failed: the model's loss is not finite"))
    if comm.rank == 0:
        with open_trace(folder / "a.h5") as trace:
            assert np.isinf(trace.table("updates")["loss"]).any()
