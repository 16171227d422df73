"""Killed at any moment, a run on the virtual clock goes on as if it had never stopped.

A kill is a SIGKILL that a forked process sends itself at the n-th of the moments that a run has: an upload, a write
to a shard, and every step of writing a checkpoint, in the middle of its bytes too. Which ones is drawn with a fixed
seed.
"""

import os
import random
import signal
from functools import cache

import h5py
import pytest

from qafel_mpi.config import load
from qafel_mpi.drivers.ledger import Ledger
from qafel_mpi.drivers.survival import container, resume
from qafel_mpi.drivers.survival.checkpoints import Checkpoints
from qafel_mpi.drivers.survival.container import CheckpointError
from qafel_mpi.drivers.survival.every import Every
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.trace.merge import shards_of
from qafel_mpi.trace.shards import ShardWriter

SMALL = (
    "stop.uploads=16",
    "server.buffer_size=4",
    "task.clients=12",
    "evaluation.every_steps=3",
    "clock.kind=virtual",
    "trace.flush_seconds=0",
)
TIMED = ("clock.concurrency=6",)
RUNS = {
    "qafel": TIMED,
    "momentum": (*TIMED, "server.momentum=0.9", "clock.dropout=0.2"),
    "adam": (*TIMED, "server.optimizer=adam", "clock.start=poisson"),
    "fedbuff": (*TIMED, "algorithm=fedbuff"),
    "fedasync": (*TIMED, "algorithm=fedasync", "server.buffer_size=1"),
    "fedavg": (*TIMED, "algorithm=fedavg"),
    "fedpaq": ("clock.concurrency=4", "algorithm=fedpaq"),
    "naive": (*TIMED, "algorithm=naive"),
    "unicast": (*TIMED, "clock.start=always", "algorithm=naive", "downlink.delivery=unicast"),
    "qafel-ef": (*TIMED, "algorithm=qafel-ef"),
    "coarse residuals": (*TIMED, "algorithm=qafel-ef", "client.error_bits=8"),
    "ca2fl": (*TIMED, "algorithm=ca2fl"),
    "quafl": ("algorithm=quafl",),
    "staleness": ("clock.staleness.kind=uniform", "clock.staleness.max=2"),
}
KILLS = 2  # of each run


class Moments:
    """Counts a run's moments, and kills this process at the last of so many."""

    def __init__(self, left: float):
        self.left, self.seen = left, 0

    def tick(self) -> None:
        self.seen += 1
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: object, name: str) -> None:
        call = getattr(owner, name)

        def wrapped(*arguments, **named):
            self.tick()
            result = call(*arguments, **named)
            self.tick()
            return result

        setattr(owner, name, wrapped)

    def torn(self, write):
        """A write whose first half may be all that gets to the disk."""

        def halves(file, data):
            middle = len(data) // 2
            write(file, memoryview(data)[:middle])
            self.tick()
            write(file, memoryview(data)[middle:])

        return halves


def run(settings, out, moments: Moments | None) -> None:
    """From the last checkpoint, if there is one."""
    if moments is not None:
        container._write = moments.torn(container._write)
        for owner, name in (
            (Ledger, "received_all"), (ShardWriter, "append"), (container, "write"), (container, "sync_folder"),
            (os, "replace"), (os, "truncate"), (os, "fsync"),
        ):  # fmt: skip
            moments.around(owner, name)
        due = Checkpoints.due
        # One at each step, however slow the disk is: the moments of a run are the same each time.
        setattr(Checkpoints, "due", lambda self, version: (self.wait(), due(self, version))[1])  # noqa: B010
    try:
        path = resume.look(out)[0]
    except CheckpointError:
        path = None
    virtual.run(load("digits", [*SMALL, *settings]), None, out, every=Every(steps=1), resume=path)


def in_a_child(work) -> int:
    """The child's exit code, or the negative number of the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@cache
def reference(name, folder) -> dict:
    out = folder / f"{name}.h5"
    run(RUNS[name], out, None)
    return result(out)


def result(path) -> dict:
    with h5py.File(path) as file:
        return {
            "updates": file["updates"][:].tobytes(),
            "steps": file["steps"][:].tobytes(),
            "x": file["final"].attrs["x_digest"],
            "x_hat": file["final"].attrs["x_hat_digest"],
            "down_links": file.attrs["down_links"],
            "rejected": file.attrs["rejected_updates"],
            "clipped": file.attrs["clipped_updates"],
            "accuracy": file.attrs["accuracy"],
        }


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_killed_at_random_moments_ends_bit_for_bit_like_one_that_is_not(name, tmp_path):
    """Two kills a run at moments drawn with the run's name as seed, the second in what the first has left to do."""
    expected = reference(name, tmp_path)
    moments = 50  # of such a run there are more
    draw, killed, out = random.Random(name), 0, tmp_path / "killed.h5"
    for _ in range(KILLS):
        left = draw.randrange(1, moments)
        code = in_a_child(lambda left=left: run(RUNS[name], out, Moments(left)) or 0)
        assert code in (0, -signal.SIGKILL)
        killed += code == -signal.SIGKILL
        if code == 0:
            break
    else:
        assert in_a_child(lambda: run(RUNS[name], out, None) or 0) == 0
    assert killed
    assert result(out) == expected
    assert not shards_of(out).exists()
