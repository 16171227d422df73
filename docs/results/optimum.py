"""The least loss f* of the paper's logistic regression, by Newton's method: what docs/results.md subtracts.

python docs/results/optimum.py docs/results/optimum.json        (record.sh runs it)
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
from qafel_analysis.commands.record import write
from qafel_analysis.read import sources

from qafel_mpi import tasks
from qafel_mpi.config import load
from qafel_mpi.drivers.provenance import provenance
from qafel_mpi.tasks.logistic import LogisticTask

STEPS = 100


def minimum(task: LogisticTask) -> np.ndarray:
    """argmin of mean log(1 + exp(−b·x)) + l2/2 ‖x‖² over all clients' rows b, from the origin."""
    rows = np.concatenate([task.rows(client) for client in range(task.clients)])
    x, eye = np.zeros(rows.shape[1]), np.eye(rows.shape[1])
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(rows @ x))  # σ(−b·x)
        gradient = task.l2 * x - p @ rows / len(rows)
        hessian = (rows * (p * (1 - p))[:, None]).T @ rows / len(rows) + task.l2 * eye
        x = x - np.linalg.solve(hessian, gradient)
    return x


def main() -> None:
    experiment = load("mushrooms-qsgd", [])
    data = os.environ.get("QAFEL_DATA_DIR")
    task = tasks.build(
        experiment.task,
        experiment.client,
        seed=experiment.seed,
        data_dir=Path(data) if data else None,
    )
    assert isinstance(task, LogisticTask)
    command = ["python", "docs/results/optimum.py", *sys.argv[1:]]
    x = torch.from_numpy(minimum(task))
    content = {"f_star": task.evaluate(x).loss, "gradient_norm_squared": task.gradient_norm_squared(x)}
    write(Path(sys.argv[1]), "optimum", content, [sources.of_bench(provenance(command))])


if __name__ == "__main__":
    main()
