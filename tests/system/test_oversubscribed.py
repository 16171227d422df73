"""Many more ranks than cores: a run ends, and says what memory each rank took; rank 0's does not grow."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from tests.system.command import qafel

RANKS = 16
SETTINGS = (
    "task.clients=ranks",
    "stop.uploads=4000",
    "stop.accuracy=1.0",
    "server.buffer_size=15",
    "evaluation.every_steps=5",
    "trace.flush_seconds=0.02",
)


def test_sixteen_ranks_on_few_cores_run_to_the_end_and_report_their_memory(tmp_path: Path) -> None:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    done = qafel("run", "digits", *settings, "--out", "a.h5", ranks=RANKS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "a.h5") as file:
        memory = file["memory"][:]
        ranks, updates = file["ranks"][:], file["updates"][:]
    assert ranks["rank"].tolist() == list(range(RANKS))
    assert len(updates) >= 4000
    assert len(np.unique(updates["client"])) == RANKS - 1
    assert len(set(ranks["x_hat_digest"])) == 1
    assert (ranks["peak_memory_bytes"] > 50 << 20).all()
    assert ranks["peak_memory_bytes"][0] < 2 << 30
    # The kernel counts in batches: a peak may lie some pages below.
    assert memory["resident_bytes"].max() < ranks["peak_memory_bytes"][0] + (1 << 20)
    assert len(memory) >= 20
    assert (np.diff(memory["time_s"]) > 0).all()
    resident = memory["resident_bytes"][len(memory) // 3 :]
    assert resident.max() - resident[0] < 4 << 20, "rank 0's memory grows with the run"
