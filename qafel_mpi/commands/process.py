"""The command as one process of a job: which rank it is, who speaks, and how the job ends on all ranks.

Only in commands/ is the environment read. mpi4py is imported where a launcher started this process,
and only once the command line has been understood.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from qafel_mpi.commands import launcher
from qafel_mpi.commands.launcher import LauncherError, launcher_rank, launcher_size, more_than_one
from qafel_mpi.config_text import ConfigError

if TYPE_CHECKING:
    from mpi4py import MPI


class ExitCode(IntEnum):
    """What a job script can rely on."""

    DONE = 0
    USAGE = 2  # the command line, the experiment or its data
    FAILED = 3
    TARGET_NOT_REACHED = 4  # with --require-target
    INTERRUPTED = 75  # EX_TEMPFAIL: a job script requeues on it


def world(*, ask_mpi: bool = True) -> MPI.Intracomm | None:
    """MPI's world where more than one of us was started, else None. Raises LauncherError, see `launcher.world`.

    Where the launcher is not known by name, MPI alone says who is rank 0: the others are muted here. ask_mpi: also
    where no launcher is known; without, for what has no need of MPI, which may not start on a login node.
    """
    comm = launcher.world() if ask_mpi or launcher_rank() is not None else None
    if comm is not None and comm.rank:
        mute()
    return comm


def mute() -> None:
    """Let this rank print nothing of its own accord: rank 0 says it. Failures still go to sys.__stderr__."""
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the process's life


def ask_for_threads() -> None:
    """Have mpi4py ask for MPI_THREAD_SERIALIZED when its module MPI is imported, unless the user has said what.

    A client's progress thread needs this much (a wall run refuses a library that gives less) and nothing
    needs more: mpi4py's own "multiple" may cost an MPI library locks in every call.
    """
    os.environ.setdefault("MPI4PY_RC_THREAD_LEVEL", "serialized")


def keep_windows_quiet() -> None:
    """Have Open MPI make its shared windows without asking UCX, which we have no other use for.

    Open MPI 5.0.11 prints an error for each rank where UCX finds no network, and makes the window all the same. What
    the user has said of these components holds.
    """
    os.environ.setdefault("OMPI_MCA_osc", "^ucx")


def leave_together() -> None:
    """Wait until every rank has come here, so that rank 0's message is out before a launcher kills anyone.

    A launcher ends the job when the first rank exits with a code other than 0: it sends SIGTERM to those that are
    still on their way out. They do not hear it from here on, or srun would return 143, not their code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if launcher_rank() is None and "mpi4py.MPI" not in sys.modules:
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        comm = more_than_one()
    except LauncherError:
        comm = None
    if comm is not None:
        comm.Barrier()
    elif launcher_size() > 1:
        _abort_in_mpis_place()


def leave(code: int) -> NoReturn:
    """Collective: exit with this code, which every rank has."""
    if code:
        leave_together()
    sys.exit(code)


def _abort_in_mpis_place() -> None:
    """Have MPICH's mpirun end the job, from a rank whose MPI library does not speak to it.

    It lets the other ranks wait for ever where one leaves that has said nothing (its exit code is no matter; Open
    MPI's and srun end the job). So this one says "abort" in the words of PMI, as jobs/checked.sh does.
    """
    if "MPI_LOCALRANKID" in os.environ and (descriptor := os.environ.get("PMI_FD", "")).isdigit():
        time.sleep(0.5)  # our message goes another way, and would be lost if it came second
        with suppress(OSError):
            os.write(int(descriptor), f"cmd=abort exitcode={ExitCode.USAGE:d}\n".encode())


def from_rank_0(comm: MPI.Intracomm | None, prepare: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """prepare() on rank 0, its JSON-able result on every rank; SystemExit(2) on all if it raises ConfigError.

    No rank but 0 need see the files that it reads. Without a communicator: prepare(), here.
    """
    answer = ""
    if comm is None or comm.rank == 0:
        try:
            prepared = prepare()
        except ConfigError as error:
            print(error, file=sys.stderr)
        else:
            answer = json.dumps(prepared)
    if comm is not None:
        from qafel_mpi.transport.exchange import broadcast_text

        answer = broadcast_text(comm, answer)
    if not answer:
        sys.exit(ExitCode.USAGE)
    result: dict[str, Any] = json.loads(answer)
    return result


def to_rank_0(comm: MPI.Intracomm, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Collective: every rank's JSON-able record, in rank order, on rank 0; [] elsewhere."""
    from qafel_mpi.transport.exchange import gather_text

    return [json.loads(text) for text in gather_text(comm, json.dumps(record))]


# --- interrupts and failures ---------------------------------------------------------------------------------------


class Interrupt:
    """Ctrl-C, SIGTERM and SIGUSR1 (a batch system's warning) as a question that a driver asks between steps.

    Rank 0's answer counts; the other ranks go on until it ends the run. A second Ctrl-C does not wait.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self._received = False
        self._asked = False

    def __call__(self) -> bool:
        if not self._asked:
            self._asked = True
            # MPICH's MPI_Init has taken SIGUSR1: it hears of ranks that died, and hangs looking for them where no
            # launcher is. So the first question is asked as soon as MPI is up.
            signal.signal(signal.SIGUSR1, self._on_signal)
        return self._received

    def __enter__(self) -> Interrupt:
        self._before = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = True


AGREE_SECONDS = 1.5  # a rank that failed waits so long for the others to fail alike


@contextmanager
def all_ranks_end(comm: MPI.Intracomm | None) -> Iterator[None]:
    """Collective. An exception on any rank ends the job on all of them, said once; a clean end never aborts.

    What the user can mend (an experiment, a data file) is a message and exit code 2; anything else is 3, with
    a traceback unless the message says it all. Raises SystemExit.
    """
    # Its own communicator: the others may be in the middle of any message on the run's.
    ends = None if comm is None else comm.Dup()
    try:
        yield
    except Exception as error:
        if ends is not None:
            _end_job(ends, error)
        _say(error, "")
        sys.exit(_code(error))
    if ends is not None:
        ends.Free()


def _end_job(ends: MPI.Intracomm, error: Exception) -> NoReturn:
    from qafel_mpi.transport.exchange import all_come

    alike = all_come(ends, AGREE_SECONDS)
    if not alike:
        time.sleep(0.2 * min(ends.rank, 10))  # of several the lowest speaks: its Abort silences the rest
    if ends.rank == 0 or not alike:
        _say(error, f"rank {ends.rank} on {socket.gethostname()}: ")
    if alike and _code(error) == ExitCode.USAGE:
        sys.exit(ExitCode.USAGE)  # nothing was under way yet: the ranks end by themselves
    if alike and ends.rank != 0:
        time.sleep(AGREE_SECONDS)  # rank 0 aborts, after its message
    ends.Abort(int(_code(error)))
    sys.exit(_code(error))


def _say(error: Exception, where: str) -> None:
    stderr = sys.__stderr__ or sys.stderr
    if _kind(error) is not None:
        print(f"{where}{error}", file=stderr)
    else:
        print(f"{where}failed{'; the job ends on all ranks' if where else ''}", file=stderr)
        traceback.print_exception(error, file=stderr)
    stderr.flush()


# Errors whose message names file, place and remedy: a traceback would hide that. By name, because importing
# these modules imports torch and MPI; an error's own module has been imported when it is raised.
_SAYS_IT_ALL = {
    "qafel_mpi.config_text.ConfigError": ExitCode.USAGE,
    "qafel_mpi.commands.launcher.LauncherError": ExitCode.USAGE,
    "qafel_mpi.parsing.DataError": ExitCode.USAGE,
    "qafel_mpi.transport.placement.PlacementError": ExitCode.USAGE,
    "qafel_mpi.transport.handshake.HandshakeError": ExitCode.USAGE,
    "qafel_mpi.trace.shards.TraceError": ExitCode.FAILED,
    "qafel_mpi.commands.bench.measure.BenchInterruptedError": ExitCode.FAILED,
    "qafel_mpi.codecs.base.NonFiniteError": ExitCode.FAILED,
}


def _kind(error: Exception) -> str | None:
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
    return next((name for name in names if name in _SAYS_IT_ALL), None)


def _code(error: Exception) -> ExitCode:
    kind = _kind(error)
    return ExitCode.FAILED if kind is None else _SAYS_IT_ALL[kind]
