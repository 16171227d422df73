"""A command's whole process, forked from one that has imported everything: its exit code, words and signal."""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MEMORY_BYTES = 3 << 30  # address space beyond what the imports take
TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class End:
    """How a process ended. code: None where it was killed; signal: 0 where it was not."""

    code: int | None
    signal: int
    words: str  # stdout and stderr
    seconds: float

    def fault(self, codes: Sequence[int]) -> str:
        """What is wrong with this end, or an empty string: a signal, a traceback, another code, or no message."""
        if self.signal:
            return f"signal {signal.Signals(self.signal).name}"
        if TRACEBACK in self.words:
            return "traceback"
        if self.code not in codes:
            return f"exit code {self.code}"
        return "no message" if self.code and not self.words.strip() else ""


@cache
def ready() -> None:
    """Import, load and compile here what forked runs of `digits` need: each would take a second for it.

    MPI begins here too: a forked process that talks to nobody but itself, and leaves by os._exit, does not mind.
    """
    import numpy as np

    import qafel_mpi.drivers.virtual.run
    import qafel_mpi.drivers.wall.run  # noqa: F401
    from qafel_mpi import codecs, tasks
    from qafel_mpi.codecs.config import CodecConfig
    from qafel_mpi.drivers.warmup import _call_codec, _call_task
    from qafel_mpi.tasks.config import ClientConfig, TaskConfig

    task = tasks.build(TaskConfig(clients=20), ClientConfig(), seed=0, clients=20)
    x = task.initial(0)
    _call_task(task, x)
    for config in (CodecConfig(), CodecConfig(codec="identity")):
        _call_codec(codecs.build(config, task.layout, task.dtype, threads=1), x)
    np.linalg.norm(x.numpy())


def command(main: Callable[[], None], arguments: Sequence[str], folder: Path, *, seconds: float) -> End:
    """Run main() with these arguments in a forked process, in this folder.

    It has MEMORY_BYTES of address space and is killed (SIGALRM) after so many seconds.
    """
    ready()
    begun = time.monotonic()
    reading, writing = os.pipe()  # a file would come under the limits and the faults that are tested
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _become(main, arguments, folder, writing, seconds)
    os.close(writing)
    status, words = _until_its_end(pid, reading)
    text = words.decode(errors="replace")
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return End(None if killed else os.WEXITSTATUS(status), killed, text, time.monotonic() - begun)


def _until_its_end(pid: int, reading: int) -> tuple[int, bytes]:
    """Its status and what it wrote, though a process of its own may keep the pipe open."""
    words, status, ended = [], 0, False
    os.set_blocking(reading, False)
    while True:
        if select.select([reading], [], [], 0.02)[0]:
            data = os.read(reading, 1 << 16)
            words.append(data)
            if data:
                continue
        elif ended:
            break
        if not ended:
            found, status = os.waitpid(pid, 0 if words and not words[-1] else os.WNOHANG)
            ended = found == pid
        elif not words[-1]:
            break
    os.close(reading)
    return status, b"".join(words)


def _become(
    main: Callable[[], None], arguments: Sequence[str], folder: Path, words: int, seconds: float
) -> None:
    """Never returns."""
    code = 70
    try:
        os.dup2(words, 1)
        os.dup2(words, 2)
        for name, number in (("stdout", 1), ("stderr", 2)):
            stream = open(number, "w", closefd=False)  # noqa: SIM115 - for the process's life
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        os.chdir(folder)
        sys.argv = [main.__module__, *arguments]
        used = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
