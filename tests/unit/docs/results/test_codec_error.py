"""docs/results/codec_error.py: the updates that it takes from a recorded run."""

import torch

from docs.results.codec_error import updates_of
from qafel_mpi.config import load
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.replay import open_replay


def test_it_takes_the_uploads_of_three_server_steps(tmp_path):
    small = (
        "task.dataset=synthetic",
        "task.shape=[4]",
        "task.classes=2",
        "task.examples=200",
        "task.dtype=float32",
    )
    chosen = (
        "clock.kind=virtual",
        "clock.concurrency=5",
        "task.clients=10",
        "stop.steps=5",
        "server.buffer_size=2",
    )
    run = load("mushrooms-qsgd", [*small, *chosen, "algorithm=fedbuff"])
    virtual.run(run, None, tmp_path / "a.h5")
    with open_replay(tmp_path / "a.h5") as replay:
        batches, about = updates_of(replay)
    assert [(one["step"], one["upload"], one["updates"]) for one in about] == [
        (0, 0, 2),
        (1, 2, 2),
        (2, 4, 2),
    ]
    assert [[update.shape for update in batch] for batch in batches] == [[(4,), (4,)]] * 3
    every = torch.stack([update for batch in batches for update in batch])
    assert len(every.unique(dim=0)) == 6, "an update was taken twice"
