"""Our own data sets and models keep the contracts of qafel_mpi.testing, and the contracts find faults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from qafel_mpi.tasks import Dataset
from qafel_mpi.tasks.config import ClientConfig, TaskConfig
from qafel_mpi.tasks.datasets import DATASETS
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.models import MODELS
from qafel_mpi.tasks.targets import Signature
from qafel_mpi.testing import DatasetContract, ModelContract
from qafel_mpi.testing.tasks import CLIENTS, new_task

DIGITS = TaskConfig()
FEW = 120  # examples to train on: the contract's rounds take no longer than they must


def few_digits() -> Dataset:
    whole = DATASETS["digits"](DIGITS, None, CLIENTS, 0)
    return replace(whole, x=whole.x[:FEW], y=whole.y[:FEW])


IMAGES = TaskConfig(dataset="synthetic", model="cnn", shape=(3, 32, 32), classes=3, examples=80, noise=0.5)


class TestData(DatasetContract):
    @pytest.fixture(scope="class", params=["digits", "synthetic"])
    @classmethod
    def make(cls, request: pytest.FixtureRequest) -> Any:
        return DATASETS[request.param]

    @pytest.fixture(scope="class")
    @classmethod
    def config(cls) -> TaskConfig:
        return IMAGES


class TestMlp(ModelContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> Any:
        return lambda config, shape, classes: MODELS["mlp"](config, Signature(shape, classes))

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls) -> Dataset:
        return few_digits()


class TestCnn(ModelContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> Any:
        return lambda config, shape, classes: MODELS["cnn"](config, Signature(shape, classes))

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls) -> Dataset:
        return DATASETS["synthetic"](IMAGES, None, CLIENTS, 0)

    @pytest.fixture(scope="class")
    @classmethod
    def client(cls) -> ClientConfig:
        return ClientConfig(learning_rate=0.02, batch_size=10)


# --- what the contracts find --------------------------------------------------------------------------------------


def dealt_anew(config: Any, data_dir: Any, clients: int, seed: int) -> Dataset:
    x = np.random.standard_normal((20, 2)).astype(np.float32)  # noqa: NPY002 - the fault
    return Dataset(x, np.arange(20) % 2, classes=2)


def raw_pixels(config: Any, data_dir: Any, clients: int, seed: int) -> Dataset:
    return Dataset(np.full((8, 4), 255, np.uint8), np.arange(8) % 2, classes=2)


def one_class_missing(config: Any, data_dir: Any, clients: int, seed: int) -> Dataset:
    return Dataset(np.ones((8, 4), np.float32), np.zeros(8, np.int64), classes=2)


@pytest.mark.parametrize(
    ("make", "test"),
    [
        (dealt_anew, "test_every_rank_loads_the_same_data"),
        (raw_pixels, "test_what_a_model_sees_is_scaled"),
        (one_class_missing, "test_it_has_an_example_of_every_class_to_train_on"),
    ],
)
def test_the_contract_finds_a_data_set_that_breaks_it(make: Any, test: str) -> None:
    given = {"make": make, "config": DIGITS, "data_dir": None, "data": make(DIGITS, None, CLIENTS, 0)}
    method = getattr(DatasetContract(), test)
    names = method.__code__.co_varnames[1 : method.__code__.co_argcount]
    with pytest.raises(AssertionError):
        method(**{name: given[name] for name in names})


class Frozen(nn.Module):
    """Learns nothing: its outputs are those of a constant."""

    def __init__(self, outputs: int):
        super().__init__()
        self.layer = nn.Linear(64, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.zeros_like(x.flatten(1))) * 0 + 1


def test_the_contract_finds_a_model_that_does_not_learn() -> None:
    data = few_digits()
    task = new_task(lambda config, shape, classes: Frozen(classes), data, DIGITS, ClientConfig())
    with pytest.raises(AssertionError):
        ModelContract().test_five_rounds_of_all_clients_lower_the_loss(task)


def test_a_model_that_does_not_fit_its_data_is_an_error_that_says_why() -> None:
    data = few_digits()
    with pytest.raises(DataError, match="10 classes"):
        new_task(
            lambda config, shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
            data,
            DIGITS,
            ClientConfig(),
        )
