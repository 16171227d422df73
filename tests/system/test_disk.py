"""The disk under the trace fails, at any moment: the run stops or goes on as trace.on_error says, with one message,
the right exit code, and no file that is half written. Then what was flushed is merged.

Runs are forked from this process, in one process each on the virtual clock, unless they say otherwise.
"""

from __future__ import annotations

import errno
import io
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qafel_mpi.commands.app import main
from qafel_mpi.trace.claim import holds_a_run
from qafel_mpi.trace.merge import merge
from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace_schema import FAULT_NUMBERS
from tests.forked import End, command
from tests.support import mpirun
from tests.unit.trace.made import whole_trace

RUN = ("run", "digits", "--out", "d/a.h5", "--set", "task.clients=20", "--set", "server.buffer_size=2")
ALONE = ("--set", "transport.shared_data=false")  # a window of MPI is a file, too
TINY = (
    *ALONE,
    "--set",
    "stop.uploads=40",
    "--set",
    "trace.flush_seconds=0",
    "--set",
    "evaluation.examples=50",
)
BY_COUNT = ("--set", "trace.flush_seconds=1000")  # how often a run writes depends on no clock
GO_ON = ("--set", 'trace.on_error="go on"')
BOTH = pytest.mark.parametrize("go_on", [False, True], ids=["stop", "go on"])
Main = Callable[[], None]


@contextmanager
def tmpfs(folder: Path, size: str = "64k") -> Iterator[Path]:
    """A file system of its own in this folder."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
    )
    if done.returncode:
        pytest.skip("needs a kernel with tmpfs, and root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the room there is."""
    blob = folder / "blob"
    with blob.open("wb", buffering=0) as file:
        while os.statvfs(folder).f_bavail:
            file.write(bytes(4096))
    return blob


def run(folder: Path, go_on: bool, start: Main = main, *more: str) -> End:
    return command(start, [*RUN, *TINY, *more, *(GO_ON if go_on else ())], folder, seconds=60)


def judge(end: End, go_on: bool, said: str) -> None:
    """The exit code is that of the setting; the disk's words are said; there is no traceback."""
    assert not end.fault((0,) if go_on else (2, 3)), end.words
    assert said in end.words
    assert not go_on or "outcome          finished" in end.words


def nothing_half_written(folder: Path) -> None:
    """No leftovers of a merge; what is there can be merged or has nothing to merge."""
    assert not [p for p in folder.rglob("*.part") if p.name.startswith("a.h5")]
    if (folder / "a.h5").exists():
        with open_trace(folder / "a.h5") as trace:
            trace.verify()
    elif (folder / "a.shards").exists():
        if not holds_a_run(folder / "a.shards"):
            return
        merge(folder / "a.shards")
        with open_trace(folder / "a.h5") as trace:
            trace.verify()


@BOTH
def test_a_disk_that_is_full_before_the_start(tmp_path, go_on):
    with tmpfs(tmp_path / "d") as disk:
        blob = fill(disk)
        judge(run(tmp_path, go_on), go_on, "No space left on device")
        blob.unlink()
        nothing_half_written(disk)


@BOTH
def test_a_folder_that_may_not_be_written_to(tmp_path, go_on):
    with tmpfs(tmp_path / "d") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        judge(run(tmp_path, go_on), go_on, "Read-only file system")
        assert not list(disk.iterdir())


@BOTH
def test_a_folder_that_is_removed_while_the_run_goes_on(tmp_path, go_on):
    def start() -> None:
        from qafel_mpi.drivers.ledger import Ledger

        stepped = Ledger.stepped

        def removing(self, step, time_s):
            stepped(self, step, time_s)
            if step.version == 5:
                shutil.rmtree(tmp_path / "d" / "a.shards")

        setattr(Ledger, "stepped", removing)  # noqa: B010
        main()

    end = run(tmp_path, go_on, start)
    judge(end, go_on, "it was removed while the run was writing to it")
    if go_on:
        with open_trace(tmp_path / "d" / "a.h5") as trace:
            assert trace.rows("steps") < 21
            assert "missing_rows" in trace.attributes
            (fault,) = trace.table("faults").tolist()
            assert fault[1] == FAULT_NUMBERS["disk"]
            assert b"it was removed while the run was writing" in fault[-1]
    nothing_half_written(tmp_path / "d")


@BOTH
@pytest.mark.parametrize("largest", [0, 3000, 20_000])
def test_files_that_may_not_grow_beyond_a_limit(tmp_path, largest, go_on):
    """The rows' files, the vectors', the trace: another one is hit by each limit."""

    def start() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
        main()

    judge(run(tmp_path, go_on, start), go_on, "File too large")
    nothing_half_written(tmp_path / "d")


class Quota:
    """From its n-th call that changes something in a folder on, the disk has no room for this user."""

    def __init__(self, folder: Path, calls: int):
        self.folder, self.left = str(folder), calls
        for name in ("write", "pwrite", "mkdir", "replace", "ftruncate", "fsync"):
            setattr(os, name, self.wrapped(getattr(os, name)))
        os.open = self.wrapped(os.open, lambda _, flags=0, *__: bool(flags & os.O_CREAT))
        io.open = self.wrapped(io.open, lambda _, mode="r", *__, **___: "w" in mode)

    def wrapped(self, call: Callable, changes: Callable[..., bool] = lambda *_, **__: True) -> Callable:
        def refused(what, *arguments, **more):
            path = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else os.path.abspath(what)
            if path.startswith(self.folder) and changes(what, *arguments, **more):
                self.left -= 1
                if self.left < 0:
                    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), path)
            return call(what, *arguments, **more)

        return refused


@pytest.fixture(scope="module")
def calls_of_a_run(tmp_path_factory):
    """How often a run changes something in its folder."""
    folder = tmp_path_factory.mktemp("counted")

    def start() -> None:
        quota = Quota(folder / "d", 10**6)
        try:
            main()
        finally:
            print(f"calls: {10**6 - quota.left}")

    return int(run(folder, False, start, *BY_COUNT).words.split("calls: ")[1])


@BOTH
@pytest.mark.parametrize("share", [0, 0.03, 0.1, 0.5, 0.85, 0.95])
def test_a_quota_that_is_used_up_at_any_moment(tmp_path, calls_of_a_run, share, go_on):
    def start() -> None:
        Quota(tmp_path / "d", int(share * calls_of_a_run))
        main()

    judge(run(tmp_path, go_on, start, *BY_COUNT), go_on, "quota exceeded")
    nothing_half_written(tmp_path / "d")


@pytest.mark.parametrize("free", range(0, 420, 30))
def test_a_merge_onto_a_full_disk_leaves_the_shards_and_no_trace(tmp_path, free):
    whole_trace(tmp_path / "a.h5").unlink()
    before = {path.name: path.read_bytes() for path in (tmp_path / "a.shards").glob("*.npys")}
    with tmpfs(tmp_path / "d", "1m") as disk:
        blob = fill(disk)
        os.truncate(blob, blob.stat().st_size - free * 1024)
        arguments = ["merge", "a.shards", "--out", "d/a.h5"]
        end = command(main, arguments, tmp_path, seconds=60)
        assert not end.fault((3,)), end.words
        assert "a.h5: can't be written: No space left on device; the shards in a.shards are kept" in end.words
        assert [path.name for path in disk.iterdir()] == ["blob"]
        assert before == {path.name: path.read_bytes() for path in (tmp_path / "a.shards").glob("*.npys")}
        blob.unlink()
        assert command(main, arguments, tmp_path, seconds=60).code == 0


@BOTH
def test_ranks_whose_files_may_not_grow(tmp_path, go_on):
    """Wall clock, three ranks: the limit is one of each process."""
    limited = (
        "import resource; from mpi4py import MPI; from qafel_mpi.commands.app import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY)); main()"
    )
    words = [sys.executable, "-c", limited, *RUN, *TINY, *(GO_ON if go_on else ())]
    launch = [mpirun(), "-n", "3", *words]
    done = subprocess.run(launch, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    judge(End(done.returncode, 0, done.stdout + done.stderr, 0), go_on, "File too large")
    nothing_half_written(tmp_path / "d")
