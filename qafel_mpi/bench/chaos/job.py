"""A run as a job of its own: started by mpirun, watched from outside, and hurt by signals to its processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from time import perf_counter, sleep

import psutil

from qafel_mpi.config_text import ConfigError
from qafel_mpi.trace.shards import shard_path

POLL_SECONDS = 0.02
DUTY_SECONDS = 0.1  # of a slow rank: so long it is stopped, and so long it runs
RANK = "OMPI_COMM_WORLD_RANK"
# With a detector, as docs/what-if.md has it: no rank is stopped for as long as it waits.
SURVIVES = ("--with-ft", "ulfm", "--mca", "mpi_ft_detector", "true")
COMMAND = (sys.executable, "-c", "from qafel_mpi.commands.app import main; main()")
_DIED = re.compile(r"qafel-mpi: rank (\d+) (?:on \S+ )?has died")


def launcher() -> str:
    """mpirun, beside this Python or on the PATH. Raises ConfigError."""
    found = shutil.which(
        "mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if found is None:
        raise ConfigError(["no mpirun, neither beside this Python nor on the PATH"])
    return found


class Growth:
    """When the shards of a run grew: a thread looks at their sizes."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._sizes: dict[Path, int] = {}
        self.at_s: dict[Path, list[float]] = {}
        self._over = Event()
        self._look()  # what lies there already, of the start before, has not grown
        self.at_s.clear()
        self._thread = Thread(target=self._watch, name="growth", daemon=True)
        self._thread.start()

    def after(self, table: str, rank: int, since_s: float) -> float:
        """When this shard grew first after that time; nan where it did not."""
        times = self.at_s.get(shard_path(self._folder, table, rank), [])
        return next((at_s for at_s in times if at_s > since_s), float("nan"))

    def last(self, table: str, rank: int) -> float:
        return self.at_s.get(shard_path(self._folder, table, rank), [float("nan")])[-1]

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            self._look()

    def _look(self) -> None:
        with suppress(FileNotFoundError):  # merged meanwhile, or not there yet
            for entry in os.scandir(self._folder):
                path, size = Path(entry.path), entry.stat().st_size
                if size > self._sizes.get(path, 0):
                    self.at_s.setdefault(path, []).append(perf_counter())
                self._sizes[path] = size


class Job:
    """One start of a run. said: lines of its stderr, with the time of each."""

    def __init__(self, arguments: Sequence[str], ranks: int, folder: Path):
        self.said: list[tuple[float, str]] = []
        self.process = subprocess.Popen(
            [launcher(), *SURVIVES, "-n", str(ranks), *COMMAND, *arguments],
            cwd=folder,
            env=dict(os.environ),  # not what MPI has added for this process
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = Thread(target=self._read, name="stderr", daemon=True)
        self._reader.start()
        self._ranks: dict[int, psutil.Process] = {}

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append((perf_counter(), line.rstrip()))

    @property
    def over(self) -> bool:
        return self.process.poll() is not None

    def rank(self, rank: int) -> psutil.Process | None:
        """Its process, None where there is none (any more)."""
        if rank not in self._ranks:
            for child in self._children():
                with suppress(psutil.Error, KeyError, ValueError):  # mpirun's own have no rank
                    self._ranks.setdefault(int(child.environ()[RANK]), child)
        found = self._ranks.get(rank)
        return found if found is not None and found.is_running() else None

    def _children(self) -> list[psutil.Process]:
        """What mpirun has started and has not ended; nothing where it has ended itself."""
        try:
            return list(psutil.Process(self.process.pid).children(recursive=True))
        except psutil.Error:
            return []

    def heard_of_death(self, rank: int, since_s: float) -> float:
        """Seconds from then until rank 0 said that this rank has died; nan where it has not."""
        for at_s, line in list(self.said):
            if at_s >= since_s and (match := _DIED.search(line)) and int(match[1]) == rank:
                return at_s - since_s
        return float("nan")

    def wait(self, ready: Callable[[], bool], seconds: float) -> bool:
        """Until ready or over; whether it is ready."""
        until_s = perf_counter() + seconds
        while not ready():
            if self.over or perf_counter() >= until_s:
                return ready()
            sleep(POLL_SECONDS)
        return True

    def stays_until(self, at_s: float) -> None:
        """Wait until then, or until it is over."""
        self.wait(lambda: perf_counter() >= at_s, max(0.0, at_s - perf_counter()))

    def cut(self) -> None:
        """SIGKILL to mpirun and all that it has started."""
        for child in self._children():
            with suppress(psutil.Error):
                child.kill()
        self.process.kill()
        self.close()

    def close(self) -> None:
        """It has ended: its last words."""
        self.process.wait()
        self._reader.join(timeout=5.0)

    def last_words(self) -> str:
        return " | ".join(line for _, line in self.said[-3:])


def slow_down(process: psutil.Process, seconds: float) -> float:
    """Half of its time for so long. Returns the seconds that it was stopped."""
    until_s, stopped_s = perf_counter() + seconds, 0.0
    while perf_counter() < until_s and process.is_running():
        begun_s = perf_counter()
        stop_for(process, DUTY_SECONDS)
        stopped_s += perf_counter() - begun_s
        sleep(DUTY_SECONDS)
    return stopped_s


def stop_for(process: psutil.Process, seconds: float) -> None:
    with suppress(psutil.Error):
        process.send_signal(signal.SIGSTOP)
    try:
        sleep(seconds)
    finally:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGCONT)
