"""The benchmark of the virtual clock: what it counts, and that its references compute what ours does."""

import numpy as np
import pytest
import torch

from qafel_mpi.bench import virtual
from qafel_mpi.bench.measuring.timing import Limits
from qafel_mpi.drivers.virtual.run import run
from qafel_mpi.drivers.virtual.workers import Trainer
from qafel_mpi.tasks.models.cnn import CNN

QUICK = Limits(seconds=0.1, least=2, warmups=1)


def test_a_training_is_counted_once_and_none_is_left_out(monkeypatch):
    trained = []
    train = Trainer.train
    monkeypatch.setattr(
        Trainer, "train", lambda self, jobs, *rest: trained.extend(jobs) or train(self, jobs, *rest)
    )
    seconds = virtual.run_seconds(run, virtual.cnn_experiment(12), None, trainings=1)
    assert len(trained) == 12 + virtual.CNN_CONCURRENCY - 1
    assert seconds > 0


def test_the_bare_cnn_computes_what_the_model_does_with_our_kernels():
    torch.manual_seed(0)
    model, x = CNN(3, 2, dropout=0.0), torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(virtual.bare_outputs(model, x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_bare_loop_learns_what_our_training_learns():
    task = virtual.logistic_task(virtual.logistic_experiment(steps=1))
    start = torch.from_numpy(np.random.default_rng(0).standard_normal(task.layout.elements))
    delta = torch.empty_like(start)
    for client in (0, 99):
        task.train(client, start, delta, seed=0)
        y = virtual.descend(task, torch.from_numpy(task.rows(client)), start)
        torch.testing.assert_close(start + delta, y, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_rows_say_what_they_are_measured_against():
    rows = list(virtual.overhead(run, QUICK, cnn_uploads=2, logistic_steps=20))
    assert [row.reference_name for row in rows] == [
        virtual.BARE_CNN,
        virtual.BARE_CHANNELS_LAST,
        virtual.BARE_LOGISTIC,
        virtual.BARE_KERNEL,
    ]
    for row in rows:
        columns = row.columns()
        assert columns["updates_per_s"] == pytest.approx(1e6 / columns["median_us"])
        assert columns["ratio"] > 0
