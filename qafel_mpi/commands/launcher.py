"""How this process was started: alone, or by a launcher as one of many ranks. Known launchers say so by variables.

Two kinds of processes would do harm unnoticed. A rank that takes itself for a process of its own runs the whole
experiment, beside all others that do. And a process in a shell that a launcher started (`srun --pty bash`) inherits
the variables of a rank, and would wait for others that do not exist.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpi4py import MPI


@dataclass(frozen=True)
class Launcher:
    """The variables by which a launcher tells a process its rank, and how many it has started."""

    name: str
    rank: str
    size: str | None = None


# In this order: mpirun may run inside a job of another launcher, whose variables it passes on.
LAUNCHERS = (
    Launcher("Open MPI's mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    Launcher("MVAPICH", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    Launcher("MVAPICH's mpirun_rsh", "MPIRUN_RANK", "MPIRUN_NPROCS"),
    Launcher("HPE MPT", "MPT_MPI_RANK"),
    Launcher("IBM's jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),
    Launcher("PMIx", "PMIX_RANK"),
    Launcher("MPICH's or Intel's mpirun, or another PMI", "PMI_RANK", "PMI_SIZE"),
    Launcher("PALS", "PALS_RANKID"),
    Launcher("ALPS", "ALPS_APP_PE"),
    Launcher("Flux", "FLUX_TASK_RANK", "FLUX_JOB_SIZE"),
)
# Set by srun alone: a batch script has SLURM_PROCID too. Inside a Slurm job, mpirun's own daemons are Slurm tasks, so
# Slurm's rank comes last.
SLURM = Launcher("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
# Of the PMI that srun speaks; mpirun in its shell sets these anew, and one of its own with them.
_OF_SRUNS_PMI = ("PMI_", "PMI2_", "PMIX_")
_OF_MPIRUN = ("OMPI_COMM_WORLD_RANK", "MPI_LOCALRANKID", "MV2_COMM_WORLD_RANK", "MPIRUN_RANK")


class LauncherError(Exception):
    """The launcher and this process's MPI library do not know each other; the message names the host and both."""


def launcher() -> Launcher | None:
    """The launcher that started this process, by its variables; None where none did or it is not known."""
    return next(_launchers(), None)


def launcher_rank() -> int | None:
    """This process's rank as its launcher (mpirun, srun) told it; None where nothing launched it."""
    found = launcher()
    return None if found is None else int(os.environ[found.rank])


def launcher_size() -> int:
    """How many of us the launcher started, as far as it says; 1 where nothing launched this process.

    Where it does not say, what this process's own rank tells: one more at least.
    """
    sizes = [_number(one.size) for one in _launchers() if one.size is not None]
    known = next((size for size in sizes if size is not None), 1)
    return max(known, 1 + (launcher_rank() or 0))


def _launchers() -> Iterator[Launcher]:
    if in_a_shell_of_srun():
        return
    yield from (one for one in LAUNCHERS if _number(one.rank) is not None)
    if "SLURM_STEP_ID" in os.environ and _number(SLURM.rank) is not None:
        yield SLURM


def _number(variable: str) -> int | None:
    text = os.environ.get(variable, "")
    return int(text) if text.isascii() and text.isdecimal() else None


def in_a_shell_of_srun() -> bool:
    """Whether this process was started by hand in the shell of `srun --pty`, which leaves it a rank's variables."""
    by_hand = "SLURM_PTY_PORT" in os.environ and os.environ.get("SLURM_TASK_PID") != str(os.getpid())
    return by_hand and not any(variable in os.environ for variable in _OF_MPIRUN)


def world() -> MPI.Intracomm | None:
    """MPI's world where more than one of us was started; None for a process on its own.

    MPI is asked also where no launcher is known: it knows launchers that we do not.

    Raises LauncherError where there is no library, or where it takes this process for one on its own and the
    launcher does not: each would run the whole experiment by itself, or the others would wait for it for ever.
    """
    if in_a_shell_of_srun():
        for variable in [v for v in os.environ if v.startswith(_OF_SRUNS_PMI)]:
            del os.environ[variable]  # or MPI would wait for the other ranks of the shell
    known = launcher()
    try:
        comm = more_than_one()
    except LauncherError as error:
        if known is None:  # what needs MPI says so
            return None
        raise _from_this_rank(error) from None
    if comm is None and known is not None and launcher_size() > 1:
        from qafel_mpi.transport.placement import mpi_library

        raise _from_this_rank(
            LauncherError(
                f"the launcher has started {launcher_size()} ranks ({known.rank} says so), and the MPI library here "
                f"({mpi_library()}) sees 1: it is not the launcher's own; load the MPI that mpirun or srun belongs "
                "to on every host, and compare with `qafel-mpi info`. Where this process is meant to run alone: "
                f"`env -u {known.rank} qafel-mpi ...`"
            )
        )
    return comm


def _from_this_rank(error: LauncherError) -> LauncherError:
    rank = launcher_rank() or 0
    time.sleep(min(rank, 3))  # where all ranks are such, rank 0 alone speaks: its end ends the others
    return LauncherError(f"rank {rank} on {socket.gethostname()}: {error}")


def more_than_one() -> MPI.Intracomm | None:
    """MPI's world if it has more than one rank. Raises LauncherError where mpi4py finds no MPI library."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        why = str(error).strip().splitlines()[-1]
        raise LauncherError(
            f"mpi4py finds no MPI library here ({why}); load the MPI that mpirun or srun belongs to on every host"
        ) from None
    return MPI.COMM_WORLD if MPI.COMM_WORLD.size > 1 else None
