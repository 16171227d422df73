"""Of several processes that want one name, one has it; what a dead one left does not keep the name."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from qafel_mpi.trace import claim
from qafel_mpi.trace.claim import LeftoverError, NameTakenError, Owner, release, release_all, take
from qafel_mpi.trace.shards import TraceError
from tests.unit.trace.made import whole_trace


@pytest.fixture(autouse=True)
def _nothing_stays_taken() -> Iterator[None]:
    yield
    release_all()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return tmp_path / "a.shards"


def child(source: str, *arguments: object) -> subprocess.Popen[str]:
    code = "import sys, time\nfrom pathlib import Path\nfrom qafel_mpi.trace.claim import *\n"
    command = [sys.executable, "-c", code + textwrap.dedent(source), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def taken_elsewhere(shards: Path) -> subprocess.Popen[str]:
    """A process that has the name until its stdin is closed."""
    process = child("take(Path(sys.argv[1]))\nprint('taken', flush=True)\nsys.stdin.read()", shards)
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    return process


def claim_of(shards: Path, **owner: object) -> Path:
    """A claim as an owner of these properties would have left it."""
    shards.mkdir(exist_ok=True)
    path = shards / "claim.000001"
    mine = Owner()
    path.write_text(json.dumps({"host": mine.host, "pid": mine.pid, "started_s": mine.started_s} | owner))
    return path


@pytest.mark.parametrize("before", ["nothing", "a dead owner's claim"])
def test_of_processes_that_start_at_once_one_has_the_name(shards: Path, before: str) -> None:
    if before == "a dead owner's claim":
        claim_of(shards, started_s=1.0)
    race = """
        while time.time() < float(sys.argv[2]):
            pass
        try:
            take(Path(sys.argv[1]))
        except NameTakenError:
            print("taken")
        else:
            print("mine", flush=True)
            sys.stdin.read()
        """
    racers = [child(race, shards, time.time() + 1.5) for _ in range(4)]
    answers = [process.stdout.readline() for process in racers if process.stdout is not None]
    for process in racers:
        process.communicate()
    assert sorted(answers) == ["mine\n", "taken\n", "taken\n", "taken\n"]


def test_who_has_the_name_is_named_and_nothing_of_its_is_touched(shards: Path) -> None:
    process = taken_elsewhere(shards)
    (shards / "messages.000000.npys").write_bytes(b"rows")
    for replace in (False, True):
        with pytest.raises(NameTakenError, match=f"process {process.pid} on {socket.gethostname()}, started"):
            take(shards, replace=replace)
    assert str(process.pid) in str(claim.owner(shards))
    assert (shards / "messages.000000.npys").read_bytes() == b"rows"
    process.communicate()


def test_a_killed_owners_shards_are_kept_unless_they_are_to_be_replaced(shards: Path) -> None:
    process = taken_elsewhere(shards)
    (shards / "messages.000000.npys").write_bytes(b"rows")
    process.kill()
    process.communicate()
    assert claim.owner(shards) is None
    with pytest.raises(LeftoverError, match=r"a\.shards: holds a run that was cut short"):
        take(shards)
    assert (shards / "messages.000000.npys").exists()
    take(shards, replace=True)
    assert [path.name for path in shards.iterdir()] == ["claim.000002"]


def test_a_name_that_is_given_up_leaves_no_folder_but_that_of_a_run(shards: Path) -> None:
    take(shards)
    take(shards)  # it is ours already
    release(shards)
    assert not shards.exists()
    take(shards)
    (shards / "run.json").write_text("{}")
    release(shards)
    assert [path.name for path in shards.iterdir()] == ["run.json"]


def test_a_pid_that_another_process_has_now_is_no_owner(shards: Path) -> None:
    claim_of(shards, started_s=Owner().started_s - 100)
    take(shards)


def test_another_hosts_owner_lives_while_it_touches_its_claim(shards: Path) -> None:
    path = claim_of(shards, host="elsewhere", pid=1)
    with pytest.raises(NameTakenError, match="process 1 on elsewhere"):
        take(shards)
    long_ago = time.time() - claim.ALIVE_SECONDS - 5
    os.utime(path, (long_ago, long_ago))
    take(shards)


def test_another_hosts_owner_lives_while_its_claim_is_locked(shards: Path) -> None:
    path = claim_of(shards, host="elsewhere", pid=1)
    os.utime(path, (1, 1))
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(NameTakenError, match="elsewhere"):
            take(shards)
    take(shards)


def test_a_claim_that_is_being_written_counts(shards: Path) -> None:
    claim_of(shards).write_text("")
    with pytest.raises(NameTakenError, match="a host that it does not name"):
        take(shards)


def test_an_owner_touches_its_claim(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "BEAT_SECONDS", 0.01)
    take(shards)
    path = shards / "claim.000001"
    os.utime(path, (1, 1))
    end = time.monotonic() + 10
    while path.stat().st_mtime == 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert path.stat().st_mtime > 1


def test_where_a_disk_cannot_lock_the_process_counts(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    process = taken_elsewhere(shards)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(NameTakenError, match=str(process.pid)):
        take(shards)
    process.communicate()
    take(shards)


def test_a_name_in_a_place_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TraceError, match=r"file.*Not a directory"):
        take(tmp_path / "file" / "a.shards")
    with pytest.raises(TraceError, match="file: "):
        take(tmp_path / "file")


def test_a_name_whose_claim_cannot_be_written_is_not_kept(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        with pytest.raises(TraceError, match=r"a\.shards: No space left on device"):
            take(shards)
    assert not shards.exists()
    take(shards)


@pytest.fixture
def zombie() -> Iterator[int]:
    """The id of a process that has ended and was not waited for."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process.pid
    process.wait()


def test_a_process_that_has_ended_and_was_not_waited_for_has_no_name(shards: Path, zombie: int) -> None:
    claim_of(shards, pid=zombie, started_s=psutil.Process(zombie).create_time())
    assert claim.owner(shards) is None
    take(shards)


def test_what_its_merge_left_is_removed(tmp_path: Path, zombie: int) -> None:
    left = tmp_path / f"a.h5.{socket.gethostname()}.{zombie}.part"
    left.write_bytes(b"half")
    whole_trace(tmp_path / "a.h5")
    assert not left.exists()
