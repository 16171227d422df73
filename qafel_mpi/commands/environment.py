"""The variables that an MPI library reads when it starts: set here, but for those that the user has set."""

from __future__ import annotations

import os

from qafel_mpi.commands.launcher import launcher_rank

# Open MPI's parameters: whether ranks may die (mpirun --with-ft ulfm), MPI_Finalize without a barrier, and the
# seconds after which its failure detector takes a silent rank for dead.
SURVIVES, NO_BARRIER = "OMPI_MCA_mpi_ft_enable", "OMPI_MCA_async_mpi_finalize"
DETECTOR_TIMEOUT = "OMPI_MCA_mpi_ft_detector_timeout"
LEAST_SILENCE_SECONDS = 100.0  # that a rank is allowed
SILENCE = 20  # times what the imports took


def ready_mpi() -> None:
    """Set the variables that MPI reads when it starts, but for those that the user has set."""
    _ask_for_threads()
    _keep_windows_quiet()
    _let_finalize_pass()
    _spare_a_second()


def _ask_for_threads() -> None:
    """Have mpi4py ask for MPI_THREAD_SERIALIZED when its module MPI is imported, unless the user has said what.

    A client's progress thread needs this much (a wall run refuses a library that gives less) and nothing
    needs more: mpi4py's own "multiple" may cost an MPI library locks in every call.
    """
    os.environ.setdefault("MPI4PY_RC_THREAD_LEVEL", "serialized")


def _keep_windows_quiet() -> None:
    """Have Open MPI make its shared windows without asking UCX, which we have no other use for.

    Open MPI 5.0.11 prints an error for each rank where UCX finds no network, and makes the window all the same. What
    the user has said of these components holds.
    """
    os.environ.setdefault("OMPI_MCA_osc", "^ucx")


def _let_finalize_pass() -> None:
    """In a job that goes on without a rank, have Open MPI end without its own barrier: there is `process.part`.

    With ranks that have died, MPI_Finalize of 5.0.11 waited in that barrier for ever in 4 of 9 jobs on a
    busy machine.
    """
    if _ranks_may_die():
        os.environ.setdefault(NO_BARRIER, "1")


def _spare_a_second() -> None:
    """Have Open MPI leave its module btl/ofi out where all ranks are on one host.

    That of Open MPI 5.0 sleeps for a second when it finds nothing to do, in every MPI_Init. What the user has said of
    these modules holds.
    """
    local, everyone = (os.environ.get(f"OMPI_COMM_WORLD_{size}") for size in ("LOCAL_SIZE", "SIZE"))
    # srun sets neither for its ranks, which may be on several hosts.
    known = everyone is not None or launcher_rank() is None
    if known and local == everyone:
        os.environ.setdefault("OMPI_MCA_btl", "^ofi")


def allow_silence(import_seconds: float) -> None:
    """In a job that goes on without a rank, have Open MPI's failure detector wait as long as a rank may be silent.

    A rank that loads data, compiles or trains sends no heartbeat, and by default it counts as dead after 10 s. Where
    ranks are many for the cores all of this takes longer, and so have the imports, whose seconds are known before MPI
    starts. What the user has said holds.
    """
    if _ranks_may_die():
        seconds = max(LEAST_SILENCE_SECONDS, SILENCE * import_seconds)
        os.environ.setdefault(DETECTOR_TIMEOUT, f"{seconds:.0f}")


def _ranks_may_die() -> bool:
    return os.environ.get(SURVIVES, "0").lower() not in ("", "0", "false", "no")
