"""Errors of MPI that mean that a rank has died, where the library goes on without it: Open MPI's ULFM.

With `mpirun --with-ft ulfm` a call that concerns a dead rank raises, and all others work as before. Everywhere else
the launcher ends the job when a rank dies, and none of this is met.

MPI Forum, User-Level Failure Mitigation (Bland et al. 2013). What Open MPI 5.0 does: a request to or from a dead rank
ends with PROC_FAILED; a receive from any source says PROC_FAILED_PENDING until the failure is acknowledged, and goes
on receiving then. A call for several requests hides which of them failed: they are tested one by one here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

from mpi4py import MPI

FT_ATTRIBUTE = 12  # MPI_FT of Open MPI's mpi.h, which mpi4py has no name for
FAILED, PENDING, REVOKED = 75, 76, 77  # its error classes, likewise


@cache
def survives() -> bool:
    """Whether the ranks of this job go on when one of them dies."""
    name, version = MPI.get_vendor()
    if name != "Open MPI" or version < (5, 0, 0):
        return False
    at = MPI.COMM_WORLD.Get_attr(FT_ATTRIBUTE)
    return isinstance(at, int) and at > 0 and ctypes.c_int.from_address(at).value == 1


def is_death(error: MPI.Exception) -> bool:
    """Whether a call failed because a rank has died."""
    return error.Get_error_class() in (FAILED, PENDING, REVOKED)


def is_pending(error: MPI.Exception) -> bool:
    """Whether a receive from any source is as it was: it might have been from the rank that has died."""
    return bool(error.Get_error_class() == PENDING)


def has_come(request: MPI.Request, status: MPI.Status) -> bool | None:
    """Whether a persistent receive from any source has a message, though Test, given the status, called it pending.

    What one Test says of a pending receive, Open MPI 5.0 says once more with the message that completes it: that Test
    has filled in the status, of which the source was negative, and the request is not active any more. Or the message
    has come since. None: the request has ended without one.
    """
    now = MPI.Status()
    try:
        if not request.Get_status(now):
            return False
        if now.Get_source() >= 0:
            request.Test(status)
            return True
    except MPI.Exception as error:
        refuse_all_but_death(error)
        return now.Get_source() >= 0
    return True if status.Get_source() >= 0 else None


def refuse_all_but_death(error: MPI.Exception) -> None:
    """Raise an error that means anything else."""
    if not is_death(error):
        raise error


def finish(request: MPI.Request) -> None:
    """Wait, also for one that ends with its rank."""
    try:
        request.Wait()
    except MPI.Exception as error:
        refuse_all_but_death(error)


def some_done(requests: Sequence[MPI.Request]) -> list[int]:
    """Testsome, where a request that ends with its rank is not done: it is to be forgotten with the rank."""
    done = []
    for i, request in enumerate(requests):
        try:
            if request != MPI.REQUEST_NULL and request.Test():
                done.append(i)
        except MPI.Exception as error:
            refuse_all_but_death(error)
    return done


def all_done(requests: Sequence[MPI.Request]) -> bool:
    """Testall, where a request that ended with its rank is done too."""
    done = True
    for request in requests:
        try:
            done &= request.Test()
        except MPI.Exception as error:
            refuse_all_but_death(error)
    return done
