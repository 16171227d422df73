"""A recorded run, done again step by step, in this process.

    from qafel_mpi.replay import open_replay

    with open_replay("runs/a.h5") as replay:
        replay.run(upload=117)              # to just before upload 117, a row of /updates from 0
        upload = replay.next                # what it is: client, rank, start_version, payload, loss
        update = replay.decoded(upload)     # (d,), as the server adds it
        replay.step()                       # hand it in
        replay.version, replay.x, replay.x_hat, replay.buffer

docs/replay.md says what a replay promises. `qafel-mpi replay` does the same from a command line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qafel_mpi.drivers.replay.compare import Apart, Byte, Difference
from qafel_mpi.drivers.replay.recorded import Recorded, ReplayError
from qafel_mpi.drivers.replay.run import opened, run
from qafel_mpi.drivers.replay.verdict import Verdict
from qafel_mpi.drivers.replay.walk import Replay, Upload

__all__ = [
    "Apart",
    "Byte",
    "Difference",
    "Recorded",
    "Replay",
    "ReplayError",
    "Upload",
    "Verdict",
    "open_replay",
    "run",
]


@contextmanager
def open_replay(
    path: str | Path, *, anyway: bool = False, data_dir: str | Path | None = None
) -> Iterator[Replay]:
    """The replay of a trace, before its first upload.

    anyway: try although something is not as it was, and go on where payloads differ. data_dir: of the data sets.
    Raises ReplayError where the trace can't be replayed bit for bit here, saying what differs.
    """
    folder = None if data_dir is None else Path(data_dir)
    with opened(Path(path), anyway=anyway, data_dir=folder, bind=False) as here:
        assert here.replay is not None, "this process is rank 0"
        yield here.replay
