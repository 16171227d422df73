"""Who counts for how much where clients differ in speed, and how accurate the model is on their classes.

python docs/results/heterogeneity.py docs/results/findings-speeds.json RUN.h5...     (record.sh runs it)

The slowest fifth are the clients that trained longest on average. A share is theirs of all uploads, or of all
weights, until the run's end. Accuracies by class are those of x at the run's end, to which the run is replayed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from qafel_analysis.commands.record import of_runs
from qafel_analysis.read.rows import row_of

from qafel_mpi.replay import Replay, open_replay
from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace_schema import taken

SLOWEST = 0.2  # of all clients


def shares(updates: np.ndarray, clients: int) -> dict[str, float]:
    """Of the slowest clients: their share of the clients, the uploads and the weights. updates: rows of /updates."""
    counts = np.bincount(updates["client"], minlength=clients)
    trained_s = np.bincount(updates["client"], updates["train_seconds"], minlength=clients)
    # One that never came back in time is the slowest of all.
    mean_s = np.divide(trained_s, counts, out=np.full(clients, np.inf), where=counts > 0)
    slow = np.argsort(mean_s, kind="stable")[clients - round(SLOWEST * clients) :]
    its = np.isin(updates["client"], slow)
    return {
        "clients": len(slow) / clients,
        "uploads": float(its.mean()),
        "weights": float(updates["weight"][its].sum() / updates["weight"].sum()),
    }


def by_class(replay: Replay) -> list[float]:
    """The share of right answers among the test examples of each class, of x as it stands."""
    task: Any = replay.setup.task
    task.flat.load(replay.x)
    task.flat.module.eval()
    labels = task.data.test_y
    right = task.flat.module(task.data.test_x).argmax(dim=1) == labels
    return [float(right[labels == label].double().mean()) for label in labels.unique()]


def measured(path: Path) -> dict[str, Any]:
    with open_trace(path) as trace:
        run, updates = row_of(trace), taken(trace.table("updates"))
    with open_replay(path) as replay:
        replay.run()
        if replay.differences:
            raise SystemExit(f"{path}: it can't be replayed here: {replay.differences[0]}")
        accuracies = by_class(replay)
    variant, _, _ = path.stem.rpartition("-seed")
    return {
        "variant": variant,
        "algorithm": run["algorithm"],
        "seed": run["seed"],
        "uploads_to_target": run["uploads_to_target"],
        "accuracy": run["accuracy"],
        "mean_staleness": run["mean_staleness"],
        "slowest": shares(updates, run["clients"]),
        "accuracy_by_class": accuracies,
    }


if __name__ == "__main__":
    of_runs("heterogeneity", measured)
