"""The contracts of a data set and of a model (docs/your-own.md) as classes of tests to inherit from."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qafel_mpi.tasks import Dataset, Task
from qafel_mpi.tasks.config import ClientConfig, PartitionConfig, TaskConfig
from qafel_mpi.tasks.neural import NeuralTask
from qafel_mpi.tasks.partitions import partition
from qafel_mpi.tasks.targets import Signature

MakeDataset = Callable[[TaskConfig, Path | None, int, int], Dataset]
MakeModel = Callable[[TaskConfig, tuple[int, ...], int], nn.Module]

CLIENTS = 4


class DatasetContract:
    """Inherit, and give the class-scoped fixture `make`: your function (config, data_dir, clients, seed) -> Dataset.

    Override `config` where your function reads other settings than the defaults of [task], and `data_dir` where it
    reads files. That the arrays fit together is checked by Dataset itself, whenever one is made.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> MakeDataset:
        raise NotImplementedError(
            "give the fixture make: a function (config, data_dir, clients, seed) -> Dataset"
        )

    @pytest.fixture(scope="class")
    @classmethod
    def config(cls) -> TaskConfig:
        return TaskConfig()

    @pytest.fixture(scope="class")
    @classmethod
    def data_dir(cls) -> Path | None:
        return None

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, make: MakeDataset, config: TaskConfig, data_dir: Path | None) -> Dataset:
        return make(config, data_dir, CLIENTS, 0)

    def test_it_is_a_data_set(self, data: Dataset) -> None:
        assert isinstance(data, Dataset), f"the function gave {type(data).__name__}"

    def test_every_rank_loads_the_same_data(
        self, make: MakeDataset, config: TaskConfig, data_dir: Path | None, data: Dataset
    ) -> None:
        """Whatever the global generators have drawn before: only the seed and the files may decide."""
        for seed in (1, 2):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002 - what a careless function draws from
            torch.manual_seed(seed)
            assert make(config, data_dir, CLIENTS, 0).digest() == data.digest()

    def test_it_has_an_example_of_every_class_to_train_on(self, data: Dataset) -> None:
        if data.targets == "classes":
            assert sorted(np.unique(data.y)) == list(range(data.classes))

    def test_what_a_model_sees_is_scaled(self, data: Dataset) -> None:
        """Within a hundred: a model does not learn from raw pixels of 0 to 255, or from years."""
        if data.vocabulary is None:
            low, high = (float(f(data.x)) * data.scale + data.shift for f in (np.min, np.max))
            assert max(abs(low), abs(high)) <= 100, f"examples lie in {low:g} to {high:g}: scale them"

    @pytest.mark.parametrize("kind", ["iid", "contiguous", "natural"])
    def test_its_examples_are_dealt_to_clients_each_once(self, data: Dataset, kind: str) -> None:
        if kind == "natural" and data.groups is None:
            return
        clients = CLIENTS if data.groups is None else min(CLIENTS, len(np.unique(data.groups)))
        dealt = partition(PartitionConfig.model_validate({"kind": kind}), data.y, clients, 0, data.groups)
        shares = [np.asarray(dealt.indices(client)) for client in range(len(dealt))]
        together = np.concatenate(shares)
        assert all(len(share) for share in shares)
        assert len(np.unique(together)) == len(together) <= len(data.y)


class TrainingContract:
    """Inherit, and give the class-scoped fixture `task`: a qafel_mpi.tasks.Task of CLIENTS clients or more.

    For `task.training = "module:Class"`. The drivers rely on what is tested here: a training is a function of start,
    client and seed, the vector alone decides what an evaluation says, and start stays as it was.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def task(cls) -> Task:
        raise NotImplementedError("give the fixture task: a qafel_mpi.tasks.Task")

    def test_a_training_is_a_function_of_start_client_and_seed(self, task: Task) -> None:
        """Also after another client has trained on the same copy of the model."""
        start = task.initial(0)
        first = trained(task, 0, start)
        trained(task, 1, start + first)
        assert torch.equal(trained(task, 0, start), first)

    def test_a_training_moves_the_vector_and_stays_finite(self, task: Task) -> None:
        delta = trained(task, 0, task.initial(0))
        assert torch.isfinite(delta).all()
        assert delta.any()

    def test_the_vector_alone_decides_what_the_model_says(self, task: Task) -> None:
        start = task.initial(0)
        before = task.evaluate(start)
        trained(task, 1, start)
        assert task.evaluate(start) == before

    def test_five_rounds_of_all_clients_lower_the_loss(self, task: Task) -> None:
        x = task.initial(0)
        before = task.evaluate(x).loss
        for number in range(5):
            x += torch.stack([trained(task, c, x, 100 * number + c) for c in range(CLIENTS)]).mean(dim=0)
        assert task.evaluate(x).loss < before

    def test_start_stays_as_it_was(self, task: Task) -> None:
        start = task.initial(0)
        trained(task, 0, start)
        assert torch.equal(start, task.initial(0))

    def test_it_asks_between_steps_whether_there_are_messages(self, task: Task) -> None:
        """On the wall clock broadcasts are applied meanwhile: Algorithm 3 of arXiv 2308.00263."""
        asked: list[int] = []
        start = task.initial(0)
        task.train(0, start, torch.empty_like(start), 7, lambda: asked.append(1))
        assert asked

    def test_every_client_has_examples(self, task: Task) -> None:
        assert all(task.examples(client) > 0 for client in range(task.clients))


class ModelContract(TrainingContract):
    """Inherit, and give the class-scoped fixtures `make` and `data`.

    make: your function (config, shape, classes) -> module. data: a small Dataset that the model fits. Override
    `config` for other settings of [task] than the defaults, and `client` for other local training.

    A model is tried as before every run: both modes, shapes, gradients, state that leaks from one training into the
    next. Then it is trained.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> MakeModel:
        raise NotImplementedError("give the fixture make: a function (config, shape, classes) -> module")

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls) -> Dataset:
        raise NotImplementedError("give the fixture data: a small Dataset that the model fits")

    @pytest.fixture(scope="class")
    @classmethod
    def config(cls) -> TaskConfig:
        return TaskConfig()

    @pytest.fixture(scope="class")
    @classmethod
    def client(cls) -> ClientConfig:
        return ClientConfig()

    @pytest.fixture(scope="class")
    @classmethod
    def task(cls, make: MakeModel, data: Dataset, config: TaskConfig, client: ClientConfig) -> NeuralTask:
        """Trying the model is a part of making this. Raises DataError with what does not fit."""
        return new_task(make, data, config, client)

    def test_it_fits_its_data_in_training_and_evaluation(self, task: NeuralTask) -> None:
        assert task.layout.elements > 0

    def test_the_first_model_is_a_function_of_the_seed(
        self, make: MakeModel, data: Dataset, config: TaskConfig, client: ClientConfig, task: NeuralTask
    ) -> None:
        torch.manual_seed(99)  # what was drawn before must not show
        again = new_task(make, data, config, client)
        assert torch.equal(task.initial(0), again.initial(0))
        assert task.state_digest == again.state_digest


def new_task(make: MakeModel, data: Dataset, config: TaskConfig, client: ClientConfig) -> NeuralTask:
    """The task of a model of the user's on these data, dealt evenly to CLIENTS clients. Raises DataError."""
    signature: Signature = data.signature
    dealt = partition(PartitionConfig(), data.y, CLIENTS, 0)
    return NeuralTask(
        lambda: make(config, signature.shape, signature.classes),
        data,
        dealt,
        client,
        dtype=getattr(torch, config.dtype),
        device=torch.device("cpu"),
        seed=0,
    )


def trained(task: Task, client: int, start: Tensor, seed: int = 7) -> Tensor:
    """What one client's training adds to start, (d,)."""
    delta = torch.empty_like(start)
    task.train(client, start, delta, seed)
    return delta
