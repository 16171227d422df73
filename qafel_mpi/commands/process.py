"""The command as one process of a job: which rank it is, who speaks, and how the job ends on all ranks.

Only in commands/ is the environment read. mpi4py is imported where a launcher started this process,
and only once the command line has been understood.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from qafel_mpi.commands import environment, launcher
from qafel_mpi.commands.interrupt import Interruption
from qafel_mpi.commands.launcher import LauncherError, launcher_rank, launcher_size, more_than_one

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
    if comm is not None:
        _meeting.make(comm)
        if comm.rank:
            mute()
    return comm


def mute() -> None:
    """Let this rank print nothing of its own accord: rank 0 says it. Failures still go to sys.__stderr__."""
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the process's life


def part() -> None:
    """In a job that goes on without a rank: wait a little for the others, who may still read what this rank sent."""
    if _meeting.comm is None:
        return
    from qafel_mpi.transport.exchange import all_come
    from qafel_mpi.transport.mortal import survives

    if survives():
        all_come(_meeting.comm, AGREE_SECONDS)


# What runs and benchmarks import, but for MPI. Most of a start's processor time.
HEAVY = (
    "torch",
    "h5py",
    "qafel_mpi.config",
    "qafel_mpi.tasks",
    "qafel_mpi.algorithms.server",
    "qafel_mpi.trace.merge",
)


def load(modules: Sequence[str] = HEAVY) -> None:
    """Import what a command will need, before it calls MPI: all ranks at the same time.

    A rank that waits in MPI for others polls, and takes their processor time while they still import. Python's
    garbage collector would look through all that is imported again and again, and find nothing.
    """
    begun_s = time.perf_counter()
    gc.disable()
    try:
        for module in modules:
            importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()
    environment.allow_silence(time.perf_counter() - begun_s)


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
        _meet(comm)
    elif launcher_size() > 1:
        _abort_in_mpis_place()


def _meet(comm: MPI.Intracomm) -> None:
    """A barrier; nothing, in a job that goes on without a rank: one may have died, and no exit ends the others."""
    from qafel_mpi.transport.mortal import survives

    if not survives():
        comm.Barrier()


class AllLeave(SystemExit):
    """Every rank leaves with this code, of its own accord: nothing has to be ended."""


def leave(code: int) -> NoReturn:
    """Collective: exit with this code, which every rank has."""
    if code:
        leave_together()
    raise AllLeave(code)


def _abort_in_mpis_place(code: int = ExitCode.USAGE) -> None:
    """Have MPICH's mpirun end the job, from a rank whose MPI library does not speak to it.

    It lets the other ranks wait for ever where one leaves that has said nothing (its exit code is no matter; Open
    MPI's and srun end the job). So this one says "abort" in the words of PMI, as jobs/checked.sh does.
    """
    if "MPI_LOCALRANKID" in os.environ and (descriptor := os.environ.get("PMI_FD", "")).isdigit():
        time.sleep(0.5)  # our message goes another way, and would be lost if it came second
        with suppress(OSError):
            os.write(int(descriptor), f"cmd=abort exitcode={code:d}\n".encode())


def from_rank_0(comm: MPI.Intracomm | None, prepare: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """prepare() on rank 0, its JSON-able result on every rank; AllLeave on all if it raises, said once by rank 0.

    The code is 2 for a ConfigError and what else the user can mend, 3 for anything else. No rank but 0 need see the
    files that it reads. Without a communicator: prepare(), here.
    """
    answer: dict[str, Any] = {}
    if comm is None or comm.rank == 0:
        try:
            answer = {"prepared": prepare()}
        except Exception as error:
            _say(error, "")
            answer = {"code": int(_code(error))}
    if comm is not None:
        from qafel_mpi.transport.exchange import all_come, broadcast_text

        all_come(comm, float("inf"))  # asleep: who polls takes rank 0's processor time
        answer = json.loads(broadcast_text(comm, json.dumps(answer)))
    if "code" in answer:
        raise AllLeave(answer["code"])
    result: dict[str, Any] = answer["prepared"]
    return result


def to_rank_0(comm: MPI.Intracomm, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Collective: every rank's JSON-able record, in rank order, on rank 0; [] elsewhere."""
    from qafel_mpi.transport.exchange import gather_text

    return [json.loads(text) for text in gather_text(comm, json.dumps(record))]


# --- the end of a job -----------------------------------------------------------------------------------------------

AGREE_SECONDS = 1.5  # a rank that failed waits so long for the others to fail alike


class _Meeting:
    """Where the ranks of a job meet that end it: a communicator of its own, made as soon as MPI is up.

    The others may be in the middle of any message on the run's. recorded: how to find what a run has recorded, in
    words; empty where it has recorded nothing.
    """

    comm: MPI.Intracomm | None = None
    recorded: Callable[[], str] = staticmethod(lambda: "")

    def make(self, world: MPI.Intracomm) -> None:
        """Collective, the first time."""
        if self.comm is None:
            self.comm = world.Dup()


_meeting = _Meeting()


def say_after_a_failure(recorded: Callable[[], str]) -> None:
    """How to find what the run that begins has recorded: the last words of a job that fails from now on."""
    _meeting.recorded = recorded


@contextmanager
def all_ranks_end(*, exits: bool = True) -> Iterator[None]:
    """Whatever is raised in it, on any rank and at any time, ends the job on all of them, said once.

    What the user can mend (an experiment, a data file) is a message and exit code 2; anything else is 3, with
    a traceback unless the message says it all; an Interruption has its own code. exits: on a rank of a job, also
    where somebody else's code exits (sys.exit in a model). Raises SystemExit.
    """
    try:
        yield
    except AllLeave:
        raise
    except BaseException as error:
        if isinstance(error, SystemExit) and not exits:
            raise
        if _meeting.comm is not None:
            _end_job(_meeting.comm, _in_words(error, _meeting.comm))
        if isinstance(error, SystemExit | KeyboardInterrupt):
            raise
        _say(error, "")
        _end_unmet(_code(error))
        sys.exit(_code(error))


def _in_words(error: BaseException, comm: MPI.Intracomm) -> BaseException:
    """MPI's error of a rank that has died where no run can name it yet: which rank it is; any other as it is."""
    from mpi4py import MPI

    from qafel_mpi.transport import mortal
    from qafel_mpi.transport.backoff import some_ranks
    from qafel_mpi.transport.failures import Failures, RankDiedError

    if not (isinstance(error, MPI.Exception) and mortal.survives()):
        return error
    failures = Failures(comm)
    failures.look()
    # In the middle of a collective that makes a communicator a death has other error classes too.
    if not (failures.gone or mortal.is_death(error)):
        return error
    who = some_ranks(failures.gone) if failures.gone else "a rank"
    return RankDiedError(f"{who} died at the start: the run had not begun yet")


def _end_unmet(code: int) -> None:
    """End the job where this rank failed before the ranks could meet; nothing, for a process on its own."""
    if "mpi4py.MPI" in sys.modules:
        from mpi4py import MPI

        if MPI.COMM_WORLD.size > 1:
            _abort(MPI.COMM_WORLD, code)
    elif launcher_size() > 1 and code != ExitCode.USAGE:  # which every rank finds alike: see leave_together
        _abort_in_mpis_place(code)


def _end_job(ends: MPI.Intracomm, error: BaseException) -> NoReturn:
    from qafel_mpi.transport.exchange import all_come

    # A second Ctrl-C does not wait; and what rank 0 has heard is enough to end a start-up.
    alike = not isinstance(error, Interruption) and all_come(ends, AGREE_SECONDS)
    if not alike:
        time.sleep(0.2 * min(ends.rank, 10))  # of several the lowest speaks: its Abort silences the rest
    if ends.rank == 0 or not alike:
        _say(error, f"rank {ends.rank} on {socket.gethostname()}: ")
    if alike and _code(error) == ExitCode.USAGE:
        raise AllLeave(ExitCode.USAGE)  # nothing was under way yet: the ranks end by themselves
    if alike and ends.rank != 0:
        time.sleep(AGREE_SECONDS)  # rank 0 aborts, after its message
    _abort(ends, _code(error))


def _abort(ends: MPI.Intracomm, code: int) -> NoReturn:
    """MPI_Abort. MPICH's comes back: then nothing of this process may go on, or wait for others in MPI_Finalize."""
    for stream in (sys.stdout, sys.stderr, sys.__stderr__):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()  # type: ignore[union-attr]
    ends.Abort(code)
    os._exit(code)


def end_now(code: int, text: str) -> NoReturn:
    """End the job on all ranks from a thread: this rank's Python is stuck where it hears of nothing."""
    stderr = _stderr()
    with suppress(OSError, ValueError):
        where = "" if _meeting.comm is None else f"rank {_meeting.comm.rank} on {socket.gethostname()}: "
        print(f"qafel-mpi: {where}{text}", file=stderr, flush=True)
    if _meeting.comm is not None:
        _abort(_meeting.comm, code)
    os._exit(code)


def _stderr() -> TextIO:
    """Also of a rank that is muted."""
    muted = getattr(sys.stderr, "name", "") == os.devnull
    return sys.__stderr__ if muted and sys.__stderr__ is not None else sys.stderr


def _say(error: BaseException, where: str) -> None:
    stderr = _stderr()
    with suppress(OSError, ValueError):  # a terminal that has gone: the job has to end all the same
        if isinstance(error, Interruption) or _kind(error) is not None:
            print(f"{where}{error}", file=stderr)
        else:
            print(f"{where}failed{'; the job ends on all ranks' if where else ''}", file=stderr)
            traceback.print_exception(error, file=stderr)
        if _code(error) == ExitCode.FAILED and (recorded := _meeting.recorded()):
            print(f"qafel-mpi: {recorded}", file=stderr)
        stderr.flush()


# Errors whose message names file, place and remedy: a traceback would hide that. By name, because importing
# these modules imports torch and MPI; an error's own module has been imported when it is raised.
_SAYS_IT_ALL = {
    "qafel_mpi.config_text.ConfigError": ExitCode.USAGE,
    "qafel_mpi.commands.launcher.LauncherError": ExitCode.USAGE,
    "qafel_mpi.parsing.DataError": ExitCode.USAGE,
    "qafel_mpi.drivers.replay.recorded.ReplayError": ExitCode.USAGE,
    "qafel_mpi.transport.placement.PlacementError": ExitCode.USAGE,
    "qafel_mpi.transport.handshake.HandshakeError": ExitCode.USAGE,
    "qafel_mpi.drivers.survival.container.CheckpointError": ExitCode.USAGE,
    "qafel_mpi.trace.shards.TraceError": ExitCode.FAILED,
    "qafel_mpi.commands.bench.measure.BenchInterruptedError": ExitCode.FAILED,
    "qafel_mpi.codecs.base.NonFiniteError": ExitCode.FAILED,
    "qafel_mpi.transport.backoff.WaitedTooLongError": ExitCode.FAILED,
    "qafel_mpi.transport.failures.RankDiedError": ExitCode.FAILED,
    "qafel_mpi.wire.WireError": ExitCode.FAILED,
}


def _kind(error: BaseException) -> str | None:
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
    return next((name for name in names if name in _SAYS_IT_ALL), None)


def _code(error: BaseException) -> int:
    if isinstance(error, Interruption):
        return error.code
    kind = _kind(error)
    return ExitCode.FAILED if kind is None else _SAYS_IT_ALL[kind]
