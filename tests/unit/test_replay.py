"""qafel_mpi.replay: a recorded run step by step, as a Python program sees it."""

import pytest

from qafel_mpi.config import load
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.replay import ReplayError, open_replay


def test_a_program_goes_through_a_run_and_looks_at_it(tmp_path):
    small = ("task.dataset=synthetic", "task.shape=[4]", "task.classes=2", "task.examples=200")
    chosen = (
        "clock.kind=virtual",
        "clock.concurrency=5",
        "task.clients=10",
        "stop.steps=3",
        "server.buffer_size=2",
    )
    virtual.run(load("mushrooms-qsgd", [*small, *chosen]), None, tmp_path / "a.h5")
    seen = []
    with open_replay(tmp_path / "a.h5") as replay:
        while (upload := replay.step()) is not None:
            seen.append((upload.number, upload.same, replay.version))
        assert not replay.differences
        assert (replay.x_hat.shape, replay.buffer.shape) == ((4,), (4,))
    assert seen == [(n, True, (n + 1) // 2) for n in range(6)]


def test_what_is_no_trace_is_said(tmp_path):
    with pytest.raises(ReplayError, match="no such file"), open_replay(tmp_path / "none.h5"):
        pass
