"""The replay of a simulated run, from the rows that its ranks recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from qafel_mpi.drivers.digests import NAME
from qafel_mpi.drivers.replay.plan import OfTheTrace
from qafel_mpi.drivers.replay.recorded import Recorded, served_rows, unseen_of
from qafel_mpi.drivers.replay.walk import Replay
from qafel_mpi.drivers.virtual.workers import LocalWorkers, Trainer
from qafel_mpi.trace_schema import MESSAGES, STEPS, UPDATES
from tests.simulation.wall import Run, setup_of


def replay_of(run: Run) -> Replay:
    """Before its first upload. Trainings take no time in it."""
    recorder: Any = run.sessions[0].recorder
    setup = setup_of(run.server.setup.experiment, run.world, run.scenario)
    walk: Any = setup.task
    walk.steps = 0  # the training itself is one computation; its steps are naps
    server = setup.server()
    workers = LocalWorkers(setup, Trainer(setup, setup.client_of(server.replica), recorder))
    recorded = recorded_of(run)
    return Replay(recorded, setup, OfTheTrace(recorded, 1), server, workers)


def recorded_of(run: Run) -> Recorded:
    """What a trace of the run would say."""
    experiment, server = run.server.setup.experiment, run.server.server
    recorders: list[Any] = [session.recorder for session in run.sessions]
    updates = np.array(recorders[0].updates, dtype=UPDATES)
    messages = [np.array(recorder.messages, dtype=MESSAGES) for recorder in recorders]
    served = served_rows(updates)
    unseen, unknown = unseen_of(experiment, updates[served], messages)
    return Recorded(
        path=Path("simulated"),
        attributes={"ranks": run.scenario.ranks, "clients": run.server.setup.clients, "digest": NAME},
        experiment=experiment,
        updates=updates,
        served=served,
        steps=server.version,
        step_rows=np.zeros(0, dtype=STEPS),
        hosts={},
        threads={},
        x=server.x.numpy(),
        x_hat=server.x_hat.numpy(),
        unseen=unseen,
        unknown=unknown,
    )


def check_replay(run: Run) -> Replay:
    """The replay ends with the run's bits, or an AssertionError. Returns it."""
    replay = replay_of(run)
    assert replay.run(), str(replay.differences[0])
    assert not replay.differences, str(replay.differences[0])
    assert torch.equal(replay.x, run.server.server.x), "x is another"
    assert torch.equal(replay.x_hat, run.server.server.x_hat), "x̂ is another"
    return replay
