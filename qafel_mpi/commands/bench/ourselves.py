"""The recipe of this package itself, for bench/peers/runner.py: a run on the virtual clock in one process.

FedAvg and FedBuff send float32, as peers do; "qafel" sends 4 bits both ways. The trace is written, as always.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qafel_mpi.bench.peers.runner import Report, Work


def train(work: Work) -> Report:
    """The time is the run's own, from its first event to its last one."""
    import h5py
    import torch

    from qafel_mpi.bench.peers.work import experiment
    from qafel_mpi.drivers.virtual.run import run

    with tempfile.TemporaryDirectory() as folder:
        summary = run(experiment(work), None, Path(folder) / "run.h5")
        with h5py.File(Path(folder) / "run.h5") as trace:
            x = torch.from_numpy(trace["final/x"][:]).float()
    for _ in range(summary.server_steps):
        work.lap()
    payload = summary.payload_bytes_up + summary.payload_bytes_down
    return work.report(
        x, seconds=summary.seconds, updates=summary.uploads, reported_bytes=payload / summary.uploads
    )
