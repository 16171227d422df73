"""A run on the first ranks of a job: the others sleep, and hear of its end."""

import h5py
import pytest

from qafel_mpi.config import ConfigError
from qafel_mpi.drivers.part import run_on_first
from qafel_mpi.drivers.wall import run as wall
from tests.mpi.conftest import same_everywhere


@pytest.mark.mpi(min_size=3)
def test_a_run_on_two_ranks_of_many_ends_on_all_with_one_summary(comm, folder, digits):
    experiment = digits("client.pause_seconds=0.02", "stop.uploads=10")
    summary = run_on_first(comm, 2, lambda ranks: wall.run(experiment, ranks, folder / "a.h5"))
    assert len(same_everywhere(comm, f"{summary.uploads} {summary.x_digest}")) == 1
    with h5py.File(folder / "a.h5") as file:
        assert file.attrs["ranks"] == 2 == len(file["ranks"])
        assert (file["updates"]["train_seconds"] >= 0.02).all(), "the pause is a part of the training"


@pytest.mark.mpi(min_size=2)
def test_what_ends_the_run_is_raised_on_the_sleeping_ranks_too(comm):
    def fail(ranks):
        raise ConfigError(["nothing to run"])

    with pytest.raises(ConfigError if comm.rank == 0 else RuntimeError):
        run_on_first(comm, 1, fail)
    with pytest.raises(ConfigError, match=f"this job has {comm.size} ranks; start it with `mpirun -n 99`"):
        run_on_first(comm, 99, fail)
