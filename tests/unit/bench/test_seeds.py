"""Every benchmark says the seeds of its random numbers."""

from __future__ import annotations

from qafel_mpi.bench.seeds import seeds
from qafel_mpi.commands.bench.app import bench


def test_every_benchmark_says_its_seeds():
    every = [command.name or command.callback.__name__ for command in bench.registered_commands]
    measuring = [name for name in every if name not in ("all", "check", "compare", "references", "reframe")]
    found = seeds(measuring)
    assert all(found[name] for name in measuring)
    assert found["virtual"] == {"cnn": 0, "logistic": 0}
