"""A trace's name is taken, not looked for: by the folder of its shards, made exclusively, and a claim file in it.

Two runs that start together under one name would write into each other's shards. So the server's process takes the
name first: it creates `claim.000001` in the folder exclusively, which every file system does for one process alone.
Where an earlier owner is dead, the next generation (`claim.000002`) is created in the same way, so that of several
who find it dead one goes on. An owner is alive while any of these holds:

- its claim file is locked (not every file system can lock);
- its process runs, where it is one of this host;
- its claim file was touched within ALIVE_SECONDS, by the clock of the file system: a thread does so.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shlex
import shutil
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from qafel_mpi.trace.shards import TraceError

BEAT_SECONDS = 15.0
ALIVE_SECONDS = 60.0
ATTEMPTS = 50  # to be the one of many who start at once
_RUN_FILES = ("*.npys", "run.json")  # of a folder with any of these a run can be merged


class NameTakenError(TraceError):
    """Another process is writing this trace; the message names it."""

    def __init__(self, directory: Path, by: Owner):
        super().__init__(f"{directory}: {by} is writing there")
        self.by = by


class LeftoverError(TraceError):
    """The folder holds the shards of a run that was cut short."""


def _started_s(pid: int) -> float:
    """When a process of this host started, in seconds since the epoch; -inf where it does not run."""
    import psutil  # who only reads traces does without it

    try:
        return -math.inf if is_zombie(pid) else psutil.Process(pid).create_time()
    except psutil.Error:
        return -math.inf


def is_zombie(pid: int) -> bool:
    """Whether a process of this host has ended, and nobody has waited for it yet."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


@dataclass(frozen=True)
class Owner:
    """The process that has taken a name. started_s: seconds since the epoch; tells it from a later one of its pid.

    command: its arguments; two processes of one command are most likely ranks that don't know of each other.
    """

    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    started_s: float = field(default_factory=lambda: _started_s(os.getpid()))
    command: str = field(default_factory=lambda: shlex.join(sys.argv[1:]))

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.started_s))
        return f"process {self.pid} on {self.host}, started {since}"

    def runs_here(self) -> bool:
        """Whether it is a process of this host that runs."""
        if self.host != socket.gethostname():
            return False
        return abs(_started_s(self.pid) - self.started_s) < 2


@dataclass
class _Claim:
    """A name that this process has. Its thread touches the file, so that other hosts see that we live."""

    path: Path
    descriptor: int
    released: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        threading.Thread(target=self._beat, name=f"claim {self.path.parent}", daemon=True).start()

    def _beat(self) -> None:
        while not self.released.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(self.path)


_held: dict[Path, _Claim] = {}  # by absolute path: the names of this process


def take(directory: Path, *, replace: bool = False) -> None:
    """Take the name of the shards' folder `directory` for this process, and empty the folder.

    replace: also where it holds the shards of a run that was cut short. A name that this process has already stays
    its own. Raises NameTakenError where another process that lives has it, LeftoverError where shards would be lost,
    and TraceError where the folder cannot be made or emptied.
    """
    try:
        own = hold(directory)
        if not replace and holds_a_run(directory):
            release(directory)
            raise LeftoverError(f"{directory}: holds a run that was cut short")
        _empty(directory, but=own)
    except OSError as error:
        release(directory)
        raise TraceError(f"{error.filename or directory}: {error.strerror}") from error


def hold(directory: Path) -> Path:
    """Take the name and leave what is in the folder. Returns the claim file. Raises NameTakenError, OSError."""
    directory = directory.absolute()
    if directory in _held:
        return _held[directory].path
    for _ in range(ATTEMPTS):
        directory.mkdir(parents=True, exist_ok=True)
        generation, newest = _newest(directory)
        if (alive := _living(newest)) is not None:
            raise NameTakenError(directory, alive)
        path = directory / f"claim.{generation + 1:06d}"
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        except (FileExistsError, FileNotFoundError):  # another one was quicker, or its run is over already
            time.sleep(0.01)
            continue
        _held[directory] = _Claim(path, descriptor)
        os.write(descriptor, json.dumps(asdict(Owner())).encode())
        _lock(descriptor)
        return path
    raise TraceError(f"{directory}: {ATTEMPTS} times another process was quicker to take this name")


def release(directory: Path) -> None:
    """Give the name up; a folder in which nothing was written goes with it. Never raises."""
    claim = _held.pop(directory.absolute(), None)
    if claim is not None:
        claim.released.set()
        with suppress(OSError):
            os.close(
                claim.descriptor
            )  # first: a network file system keeps a folder as long as we have a file open
        with suppress(OSError):
            claim.path.unlink(missing_ok=True)
            directory.rmdir()


def release_all() -> None:
    """`release` every name that this process has."""
    for directory in list(_held):
        release(directory)


def discard(directory: Path) -> None:
    """Delete the folder and all that is in it, the claim last. Raises OSError."""
    own = _held.get(directory.absolute())
    _empty(directory, but=own.path if own else None)
    release(directory)
    if directory.exists():
        directory.rmdir()


def owner(directory: Path) -> Owner | None:
    """Who is writing into the folder now; None where nobody is, or this process is."""
    return None if directory.absolute() in _held else _living(_newest(directory)[1])


def holds_a_run(directory: Path) -> bool:
    """Whether the folder has anything that `merge` could use."""
    return any(next(directory.glob(pattern), None) is not None for pattern in _RUN_FILES)


def _newest(directory: Path) -> tuple[int, Path | None]:
    """The last generation of claims and its file; (0, None) where there is none."""
    claims = sorted(path for path in directory.glob("claim.*") if path.suffix[1:].isdecimal())
    return (int(claims[-1].suffix[1:]), claims[-1]) if claims else (0, None)


def _living(path: Path | None) -> Owner | None:
    """The owner that a claim file names, if it is alive."""
    if path is None:
        return None
    try:
        found = _read(path)
    except FileNotFoundError:
        return None
    here = found.host == socket.gethostname()
    alive = locked(path) or found.runs_here() or (not here and _touched_lately(path))
    return found if alive else None


def _read(path: Path) -> Owner:
    """Raises FileNotFoundError."""
    for _ in range(20):
        try:
            return Owner(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise
        except (ValueError, TypeError, OSError):  # not written yet, torn, or not ours to read
            time.sleep(0.01)
    return Owner("a host that it does not name", 0, 0.0, "")


def _lock(descriptor: int) -> None:
    """Best effort: some file systems cannot lock, and another one may just be looking whether we have."""
    for _ in range(5):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.002)
        except OSError:
            return
        else:
            return


def locked(path: Path) -> bool:
    """Whether somebody holds a lock on the file, as HDF5 does while it has one open; False where locks don't tell."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _touched_lately(path: Path) -> bool:
    """By the clock that stamps the file system's files: another host's may differ from ours."""
    probe = path.with_name(f"now.{socket.gethostname()}.{os.getpid()}")
    try:
        probe.touch()
        now_s = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        now_s = time.time()
    try:
        return now_s - path.stat().st_mtime < ALIVE_SECONDS
    except OSError:
        return False


def _empty(directory: Path, but: Path | None) -> None:
    """Remove all but our claim: what an earlier run left would be read as ours. Raises OSError."""
    for path in directory.iterdir():
        if path.name.startswith(".nfs"):  # open somewhere: the file system itself removes it later
            continue
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != (but and but.name):
            path.unlink(missing_ok=True)
