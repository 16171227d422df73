"""Fixtures of the tests that run under mpirun."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from qafel_mpi.config import Experiment, load
from qafel_mpi.drivers.wall.client import WallClient
from qafel_mpi.transport.exchange import broadcast_text

AHEAD = 4  # trainings


@pytest.fixture
def comm() -> Iterator[MPI.Intracomm]:
    """A world of this test's own: what one test leaves behind can't reach the next."""
    own = MPI.COMM_WORLD.Dup()
    yield own
    own.Free()


@pytest.fixture
def folder(comm: MPI.Intracomm) -> Iterator[Path]:
    """One folder that all ranks see; rank 0 makes and removes it."""
    with tempfile.TemporaryDirectory(prefix="qafel-") as name:
        yield Path(broadcast_text(comm, name))
        comm.Barrier()


@pytest.fixture
def seen(comm: MPI.Intracomm, folder: Path) -> np.ndarray:
    """A number of each rank, 0 at first: what a rank writes there, the others see at once."""
    if comm.rank == 0:
        np.zeros(comm.size, np.int64).tofile(folder / "seen")
    comm.Barrier()
    return np.memmap(folder / "seen", np.int64, "r+", shape=comm.size)


@pytest.fixture
def abreast(comm: MPI.Intracomm, seen: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """In wall runs no rank is more than AHEAD trainings ahead of another: a short run would be over before a rank
    that gets no core has made its first."""
    pause = WallClient._pause

    def waits(client: WallClient, seconds: float) -> None:
        seen[comm.rank] += 1
        wait_in(client, lambda: seen[comm.rank] <= seen[1:].min() + AHEAD)
        pause(client, seconds)

    monkeypatch.setattr(WallClient, "_pause", waits)


def wait_in(client: WallClient, ready: Callable[[], bool]) -> None:
    """As part of a training; broadcasts are applied meanwhile. Raises Stopped where the run ends."""
    while not ready():
        client._poll()
        time.sleep(0.001)


@pytest.fixture
def digits() -> Callable[..., Experiment]:
    """The digits experiment, small, with overrides."""

    def make(*overrides: str) -> Experiment:
        small = ("stop.uploads=40", "server.buffer_size=4", "task.clients=20", "evaluation.every_steps=5")
        return load("digits", [*small, *overrides])

    return make


def same_everywhere(comm: MPI.Intracomm, text: str) -> set[str]:
    """What the ranks say, as a set: assert on its size, so that all ranks fail together."""
    mine = np.zeros(256, dtype=np.uint8)
    data = text.encode()[:256]
    mine[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    everyone = np.empty((comm.size, 256), dtype=np.uint8)
    comm.Allgather([mine, MPI.BYTE], [everyone, MPI.BYTE])
    return {row.tobytes().rstrip(b"\0").decode() for row in everyone}


@pytest.fixture
def logistic() -> Experiment:
    """Logistic regression on made data, trained in batches of clients, in float64."""
    return load(
        "mushrooms",
        [
            "task.dataset=synthetic",
            "task.examples=400",
            "task.clients=30",
            "clock.kind=virtual",
            "clock.concurrency=30",
            "stop.uploads=200",
            "server.buffer_size=7",
        ],
    )
