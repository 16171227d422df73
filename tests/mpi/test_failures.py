"""A client's failure is an outcome of the run on both clocks: with client, reason and trace, on every rank."""

import pytest
from torch import nn

from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.drivers.wall import run as wall
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


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("clock", RUNS)
@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["client.learning_rate=1e38"], "the training diverged; lower the learning rate"),
        ([f"task.model={__name__}:failing"], "RuntimeError: out of luck ("),
    ],
    ids=["diverges", "raises"],
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
