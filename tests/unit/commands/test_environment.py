"""What is told to an MPI library before it starts."""

import os

import pytest

from qafel_mpi.commands import environment


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ({}, "^ofi"),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, "^ofi"),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, None),
        ({"PMIX_RANK": "1"}, None),  # as srun starts it
        ({"OMPI_MCA_btl": "self,tcp"}, "self,tcp"),
    ],
)
def test_open_mpi_keeps_all_its_modules_where_ranks_are_on_several_hosts_or_the_user_has_named_some(
    monkeypatch, given, becomes
):
    for name in ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_MCA_btl"):
        monkeypatch.setenv(name, "")  # to be restored
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    environment._spare_a_second()
    assert dict(os.environ).get("OMPI_MCA_btl") == becomes


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, None),
        ({environment.SURVIVES: "1"}, "1"),
        ({environment.SURVIVES: "false"}, None),
        ({environment.SURVIVES: "true", environment.NO_BARRIER: "0"}, "0"),
    ],
    ids=str,
)
def test_open_mpi_ends_without_its_barrier_where_ranks_may_die_and_the_user_has_not_said_else(
    monkeypatch, given, wanted
):
    ours = (
        "MPI4PY_RC_THREAD_LEVEL",
        "OMPI_MCA_osc",
        "OMPI_MCA_btl",
        environment.SURVIVES,
        environment.NO_BARRIER,
    )
    for name in ours:
        monkeypatch.setenv(name, "")  # so that what is set here is put back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    environment.ready_mpi()
    assert os.environ.get(environment.NO_BARRIER) == wanted
    assert os.environ["MPI4PY_RC_THREAD_LEVEL"] == "serialized"


@pytest.mark.parametrize(
    ("given", "import_seconds", "wanted"),
    [
        ({}, 30.0, None),
        ({environment.SURVIVES: "1"}, 2.0, "100"),
        ({environment.SURVIVES: "1"}, 30.0, "600"),
        ({environment.SURVIVES: "1", environment.DETECTOR_TIMEOUT: "7"}, 30.0, "7"),
    ],
    ids=str,
)
def test_the_failure_detector_waits_the_longer_the_longer_the_imports_took(
    monkeypatch, given, import_seconds, wanted
):
    for name in (environment.SURVIVES, environment.DETECTOR_TIMEOUT):
        monkeypatch.setenv(name, "")  # so that what is set here is put back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    environment.allow_silence(import_seconds)
    assert os.environ.get(environment.DETECTOR_TIMEOUT) == wanted
