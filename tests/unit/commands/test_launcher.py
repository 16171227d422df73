"""Who started this process: each launcher by its variables, and what is only inherited from one."""

from __future__ import annotations

import os

import pytest

from qafel_mpi.commands.launcher import (
    LAUNCHERS,
    LauncherError,
    launcher,
    launcher_rank,
    launcher_size,
    world,
)

OF_LAUNCHERS = (
    "OMPI_",
    "PMI",
    "PALS_",
    "SLURM_",
    "MV2_",
    "MPIRUN_",
    "MPT_",
    "JSM_",
    "ALPS_",
    "FLUX_",
    "MPI_LOCAL",
)


@pytest.fixture(autouse=True)
def _nothing_of_this_machines_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [v for v in os.environ if v.startswith(OF_LAUNCHERS)]:
        monkeypatch.delenv(variable)


def in_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for pair in text.split():
        monkeypatch.setenv(*pair.split("=", 1))


@pytest.mark.parametrize(
    ("environment", "rank", "size"),
    [
        ("", None, 1),
        ("OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4", 3, 4),
        ("PMI_RANK=0 PMI_SIZE=2", 0, 2),
        ("PMIX_RANK=1", 1, 2),  # it says no size: two at least
        ("MPIRUN_RANK=2 MPIRUN_NPROCS=8", 2, 8),  # MVAPICH
        ("MV2_COMM_WORLD_RANK=0 MV2_COMM_WORLD_SIZE=8 PMI_RANK=0 PMI_SIZE=8", 0, 8),
        ("ALPS_APP_PE=5", 5, 6),
        ("PALS_RANKID=5", 5, 6),
        ("MPT_MPI_RANK=1", 1, 2),
        ("FLUX_TASK_RANK=0 FLUX_JOB_SIZE=6", 0, 6),
        ("JSM_NAMESPACE_RANK=4 JSM_NAMESPACE_SIZE=6", 4, 6),
        # mpirun inside a job of another launcher
        (
            "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 SLURM_PROCID=1 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2",
            3,
            4,
        ),
        ("PMI_RANK=3 PMI_SIZE=4 FLUX_TASK_RANK=1 FLUX_JOB_SIZE=2", 3, 4),
        ("SLURM_PROCID=1 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2", 1, 2),
        ("SLURM_PROCID=0 SLURM_NTASKS=4", None, 1),  # a batch script: Slurm sets it there too
        ("PMI_RANK=\u0663", None, 1),
    ],
)
def test_the_rank_is_read_from_the_launchers_environment(
    monkeypatch: pytest.MonkeyPatch, environment: str, rank: int | None, size: int
) -> None:
    in_environment(monkeypatch, environment)
    assert (launcher_rank(), launcher_size()) == (rank, size)


OF_A_SHELL = "SLURM_PROCID=0 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=4 SLURM_PTY_PORT=40001 SLURM_TASK_PID=1"


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        (OF_A_SHELL, None),
        (f"{OF_A_SHELL} PMI_RANK=0 PMI_SIZE=4", None),  # of srun --mpi=pmi2 --pty bash
        (f"{OF_A_SHELL} PMIX_RANK=0", None),
        (f"{OF_A_SHELL} PMIX_RANK=2 OMPI_COMM_WORLD_RANK=2", 2),  # of mpirun in that shell
        (f"{OF_A_SHELL} PMI_RANK=1 PMI_SIZE=2 MPI_LOCALRANKID=1", 1),
        (OF_A_SHELL.replace("SLURM_TASK_PID=1", f"SLURM_TASK_PID={os.getpid()}"), 0),  # srun --pty qafel-mpi
    ],
)
def test_the_shell_of_srun_passes_its_variables_on_and_is_no_launcher(
    monkeypatch: pytest.MonkeyPatch, environment: str, rank: int | None
) -> None:
    in_environment(monkeypatch, environment)
    assert launcher_rank() == rank


def test_in_the_shell_of_srun_mpi_does_not_wait_for_other_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    in_environment(monkeypatch, f"{OF_A_SHELL} PMI_RANK=0 PMI_SIZE=4 PMI_FD=3 PMIX_RANK=0")
    assert world() is None
    assert not [variable for variable in os.environ if variable.startswith("PMI")]


@pytest.mark.parametrize("known", LAUNCHERS, ids=lambda known: known.rank)
def test_a_rank_that_mpi_takes_for_one_alone_is_no_run_of_its_own(
    monkeypatch: pytest.MonkeyPatch, known: object
) -> None:
    assert isinstance(known, type(LAUNCHERS[0]))
    monkeypatch.setattr("qafel_mpi.commands.launcher.more_than_one", lambda: None)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv(known.rank, "1")
    assert launcher() == known
    with pytest.raises(
        LauncherError, match=rf"rank 1 on .* started 2 ranks \({known.rank} says so\).* sees 1"
    ):
        world()
