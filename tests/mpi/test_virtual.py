"""Virtual runs: the same bits on 1, 2, 3 and 5 ranks."""

import h5py
import pytest
from mpi4py import MPI

from qafel_mpi.drivers import virtual
from qafel_mpi.wire import Kind

SETTINGS = {
    "qafel": [],
    "fedbuff unicast": ["algorithm=fedbuff", "downlink.delivery=unicast"],
    "naive unicast": ["algorithm=naive", "downlink.delivery=unicast"],
    "fedasync": ["algorithm=fedasync", "server.buffer_size=1"],
    "fedpaq": ["algorithm=fedpaq"],
    "dropout, poisson": ["clock.dropout=0.2", "clock.start=poisson"],
    "staleness": ["clock.staleness.kind=uniform", "clock.staleness.max=3"],
    "always": ["clock.start=always"],
    "zstd": ["uplink.entropy=zstd", "downlink.entropy=zstd"],
}


def tables(path):
    with h5py.File(path) as file:
        return {
            "updates": file["updates"][:].tobytes(),
            "steps": file["steps"][:].tobytes(),
            "x": file["final"].attrs["x_digest"],
            "x_hat": file["final"].attrs["x_hat_digest"],
        }


@pytest.mark.mpi
@pytest.mark.parametrize("name", SETTINGS)
def test_results_are_bit_identical_for_any_number_of_ranks(comm, folder, digits, name):
    """Rank 0's own run in one process is the reference; /updates and /steps are compared byte by byte."""
    experiment = digits("clock.kind=virtual", "clock.concurrency=10", *SETTINGS[name])
    summary = virtual.run(experiment, comm, folder / "many.h5")
    if comm.rank == 0:
        virtual.run(experiment, MPI.COMM_SELF, folder / "one.h5")
    comm.Barrier()
    assert tables(folder / "many.h5") == tables(folder / "one.h5")
    assert summary.uploads == 40


@pytest.mark.mpi(min_size=2)
def test_batches_that_are_trained_together_do_not_depend_on_ranks(comm, folder, logistic):
    virtual.run(logistic, comm, folder / "many.h5")
    if comm.rank == 0:
        virtual.run(logistic, MPI.COMM_SELF, folder / "one.h5")
    comm.Barrier()
    assert tables(folder / "many.h5") == tables(folder / "one.h5")


@pytest.mark.mpi(min_size=2)
def test_messages_between_ranks_add_up(comm, folder, digits):
    virtual.run(digits("clock.kind=virtual", "clock.concurrency=10"), comm, folder / "a.h5")
    with h5py.File(folder / "a.h5") as file:
        messages, ranks = file["messages"][:], file["ranks"][:]
    sent, received = messages[messages["end"] == 0], messages[messages["end"] == 1]
    assert sorted(sent["wire_bytes"]) == sorted(received["wire_bytes"])
    assert ranks["sent"].sum() == len(sent) == len(received) == ranks["received"].sum()
    assert (received["kind"] == Kind.UPDATE).sum() >= 40
    assert len({d.decode() for d in ranks["x_hat_digest"]}) == 1
