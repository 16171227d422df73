"""The schedule of an experiment on the virtual clock."""

from __future__ import annotations

from qafel_mpi.config import ConfigError, Experiment
from qafel_mpi.drivers.build import affordable
from qafel_mpi.parsing import DataError
from qafel_mpi.schedule.events import Schedule, schedule
from qafel_mpi.schedule.pull import Pulls


def planned(experiment: Experiment) -> Schedule:
    """The experiment's schedule. Raises ConfigError where its file of durations can't be used."""
    try:
        with affordable(experiment):
            if experiment.server.pull:
                return pulls(experiment)
            return schedule(
                experiment.clock,
                clients=experiment.task.population(),
                seed=experiment.seed,
                buffer_size=experiment.server.buffer_size,
                synchronous=experiment.server.synchronous,
            )
    except (DataError, ValueError) as error:
        label = "clock.duration.path: " if experiment.clock.duration.path is not None else ""
        raise ConfigError([f"{label}{error}"]) from None


def pulls(experiment: Experiment) -> Pulls:
    """The schedule of a server that asks: the same on every rank."""
    e = experiment
    return Pulls(e.clock, e.task.population(), e.seed, e.server.buffer_size)
