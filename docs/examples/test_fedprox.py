import pytest
import torch
from fedprox import FedProx

from qafel_mpi.tasks import build
from qafel_mpi.tasks.config import ClientConfig, TaskConfig
from qafel_mpi.testing import TrainingContract


class TestFedProx(TrainingContract):
    @pytest.fixture(scope="class")
    @classmethod
    def task(cls):
        return build(TaskConfig(training="fedprox:FedProx", clients=4), ClientConfig(), seed=0)


def test_clients_agree_more_with_a_proximal_term(monkeypatch):
    import fedprox

    task = build(TaskConfig(training="fedprox:FedProx", clients=4), ClientConfig(learning_rate=0.5), seed=0)
    lengths = []
    for weight in (0.0, 1.0):
        monkeypatch.setattr(fedprox, "MU", weight)
        delta = torch.empty(task.layout.elements)
        task.train(0, task.initial(0), delta, 1)
        lengths.append(float(delta.norm()))
    assert lengths[1] < lengths[0]
    assert isinstance(task, FedProx)
