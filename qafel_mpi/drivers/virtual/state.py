"""A virtual run as a plain value: what its checkpoint holds besides the session's part.

It is taken between two events, when the server has received what has arrived and the workers are done with what they
were given. Trainings that are under way in virtual time are in it as their results; those that start from the newest
version and were not handed out yet are trained again, in the same batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from qafel_mpi.algorithms.server import Server
from qafel_mpi.drivers.ledger import Ledger
from qafel_mpi.drivers.virtual.workers import Job, Result, Workers
from qafel_mpi.kernels.state import State
from qafel_mpi.schedule.events import Schedule
from qafel_mpi.schedule.window import GraceWindow


class Simulation(Protocol):
    """What is needed here of drivers/virtual/run.py's."""

    server: Server
    schedule: Schedule
    ledger: Ledger
    workers: Workers
    start_version: dict[Job, int]
    pending: dict[Job, None]
    step_due: bool
    window: GraceWindow
    finishes: int
    down_links: int
    now_s: float


def state_of(simulation: Simulation, results: Mapping[Job, Result]) -> State:
    """results: of all trainings that were handed out and not taken."""
    s = simulation
    return {
        "server": s.server.state(),
        "schedule": s.schedule.state(),
        "ledger": s.ledger.state(),
        "start_versions": _jobs(s.start_version),
        "pending": _jobs(dict.fromkeys(s.pending, s.server.version)),
        "results": _saved(results),
        "step_due": s.step_due,
        "window": s.window.state(),
        "finishes": s.finishes,
        "down_links": s.down_links,
        "now_s": s.now_s,
        "sequence": s.workers.sequence,
        "clients": s.workers.kept(),  # what they keep between their trainings
    }


def restore(simulation: Simulation, state: State) -> None:
    """Raises ValueError, KeyError or TypeError where the state is of another run."""
    s = simulation
    s.server.restore(state["server"])
    s.schedule.restore(state["schedule"])
    s.ledger.restore(state["ledger"])
    s.start_version = _restored_jobs(state["start_versions"])
    s.pending = dict.fromkeys(_restored_jobs(state["pending"]))
    s.window.restore(state["window"])
    s.step_due, s.finishes = bool(state["step_due"]), int(state["finishes"])
    s.down_links, s.now_s = int(state["down_links"]), float(state["now_s"])
    s.workers.restore(_restored(state["results"]), s.server.version, int(state["sequence"]), s.server.x_hat)


def _jobs(versions: Mapping[Job, int]) -> np.ndarray:
    """(n, 3) int64: client, participation, version; in the order of the dictionary."""
    return np.array([(*job, version) for job, version in versions.items()], dtype=np.int64).reshape(-1, 3)


def _restored_jobs(rows: np.ndarray) -> dict[Job, int]:
    return {(client, participation): version for client, participation, version in rows.tolist()}


def _saved(results: Mapping[Job, Result]) -> State:
    payloads = [result.payload for result in results.values()]
    return {
        "jobs": _jobs(dict.fromkeys(results, 0)),
        "sizes": np.array([payload.size for payload in payloads], dtype=np.int64),
        "payloads": np.concatenate(payloads) if payloads else np.zeros(0, np.uint8),
        "keys": np.array([result.key for result in results.values()], dtype=np.uint64),
        "ranks": np.array([result.rank for result in results.values()], dtype=np.int64),
        "losses": np.array([result.loss for result in results.values()], dtype=np.float64),
        "errors": {str(n): result.error for n, result in enumerate(results.values()) if result.error},
    }


def _restored(state: State) -> dict[Job, Result]:
    payloads = np.split(state["payloads"], np.cumsum(state["sizes"])[:-1]) if len(state["sizes"]) else []
    columns = (state[name].tolist() for name in ("keys", "losses", "ranks"))
    rows = zip(_restored_jobs(state["jobs"]), payloads, *columns, strict=True)
    errors = state["errors"]
    return {
        job: Result(payload, key, loss, str(errors.get(str(n), "")), rank)
        for n, (job, payload, key, loss, rank) in enumerate(rows)
    }
