"""The work that all peers do: which data, how much of it, and what it is in our own settings.

Both models learn scikit-learn's digits: the MLP from 8×8 pixels, the CNN from the same enlarged to 32×32. Every
client has 14 examples, and all of them are one batch. So no local step depends on a shuffle, and a mean weighted by
examples is the plain mean. Where the cohort is all clients, FedAvg is a function of the start alone, and every peer
must end with the same model but for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qafel_mpi import tasks
from qafel_mpi.config import Experiment, from_toml
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.datasets import digits

if TYPE_CHECKING:
    from qafel_mpi.bench.peers.runner import Work

CLIENTS, EXAMPLES = 100, 14  # 1,400 of the 1,437 training examples
SEED = 0
BUFFER = 10  # uploads of a step of FedBuff
ENLARGED = 4
RATES = {"mlp": 0.5, "cnn": 0.1}
# So many that a sample takes some seconds of a peer that trains one client after the other. After 20 rounds
# of 10 clients the CNN's accuracy is 0.51 to 0.93, by which clients they were; after 40, 0.84 to 0.98.
UPDATES = {"mlp": {10: 1000, 100: 5000}, "cnn": {10: 600, 100: 400}}
ALGORITHMS = ("fedavg", "fedbuff", "qafel")
MODELS = tuple(RATES)
COHORTS = (10, 100)


@dataclass(frozen=True)
class Part:
    """One piece of work. updates: of all clients together; rounded down to whole server steps."""

    model: str
    algorithm: str
    cohort: int
    updates: int
    clients: int = CLIENTS

    def settings(self, data: Path, share: float = 1.0) -> dict[str, Any]:
        """runner.Work's, of this share of the updates; three server steps at least."""
        buffer = self.cohort if self.algorithm == "fedavg" else BUFFER
        return {
            "algorithm": self.algorithm,
            "model": self.model,
            "clients": self.clients,
            "cohort": self.cohort,
            "buffer": buffer,
            "steps": max(3, int(share * self.updates) // buffer),
            "local_steps": 1,
            "learning_rate": RATES[self.model],
            "seed": SEED,
            "data": str(data),
        }


def usual_updates(model: str, cohort: int) -> int:
    """Of a sample."""
    few, many = UPDATES[model].values()
    return few if cohort <= 10 else many


_TOML = """
algorithm = "{algorithm}"
seed = {seed}
[task]
dataset = "npz:{data}"
model = "{model}"
clients = {clients}
partition = {{ kind = "natural" }}
[client]
learning_rate = {learning_rate}
local_steps = {local_steps}
batch_size = {batch}
[server]
buffer_size = {buffer}
learning_rate = 1.0
momentum = 0.0
[clock]
kind = "virtual"
{concurrency}
[stop]
accuracy = 1.0
steps = {steps}
[evaluation]
every_steps = 1000000
"""


def experiment(work: Work) -> Experiment:
    """The same work in our settings."""
    return _experiment(vars(work))


def _experiment(settings: Mapping[str, Any]) -> Experiment:
    synchronous = settings["algorithm"] == "fedavg"
    concurrency = "" if synchronous else f"concurrency = {settings['cohort']}"
    return from_toml(_TOML.format(**settings, batch=EXAMPLES, concurrency=concurrency))


def write(part: Part, data: Path) -> None:
    """The .npz that all peers read, with our start values."""
    found = digits(TaskConfig(), None, part.clients, SEED)
    count = part.clients * EXAMPLES
    assert found.test_x is not None
    assert found.test_y is not None
    arrays: dict[str, Any] = {
        "x": _images(part.model, found.x[:count]),
        "y": found.y[:count],
        "client": np.arange(count) % part.clients,
        "test_x": _images(part.model, found.test_x),
        "test_y": found.test_y,
    }
    np.savez(data, **arrays)
    e = _experiment(part.settings(data))
    task = tasks.build(e.task, e.client, seed=e.seed)
    np.savez(data, **arrays, start=task.initial(e.seed).numpy())


def _images(model: str, x: np.ndarray) -> np.ndarray:
    """(n, 64) as the model takes them: (n, 64), or (n, 1, 32, 32)."""
    if model == "mlp":
        return x
    return np.kron(x.reshape(-1, 1, 8, 8), np.ones((ENLARGED, ENLARGED), np.float32))
