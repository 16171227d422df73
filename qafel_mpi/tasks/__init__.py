"""Tasks: what is learned. Data sets, partitions, models and local training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.own import blamed
from qafel_mpi.own import load as load_own
from qafel_mpi.tasks import held, logistic
from qafel_mpi.tasks.base import Evaluation, Task, TrainResult
from qafel_mpi.tasks.config import FILE_FORMATS, ClientConfig, TaskConfig
from qafel_mpi.tasks.datasets import DATASETS, Dataset
from qafel_mpi.tasks.errors import DataError, TrainingError
from qafel_mpi.tasks.files import load as load_files
from qafel_mpi.tasks.held import Once
from qafel_mpi.tasks.make import described
from qafel_mpi.tasks.models import MODELS, VECTORS
from qafel_mpi.tasks.neural import NeuralTask
from qafel_mpi.tasks.partitions import Partition, partition
from qafel_mpi.tasks.randomness import own_random_numbers
from qafel_mpi.tasks.targets import Signature
from qafel_mpi.tasks.training import own_training
from qafel_mpi.tasks.vectors import VectorTask

__all__ = ["DataError", "Dataset", "Evaluation", "Task", "TrainResult", "build"]


def build(
    task: TaskConfig,
    client: ClientConfig,
    *,
    seed: int,
    clients: int | None = None,
    device: torch.device | None = None,
    data_dir: Path | None = None,
    once: Once = held.here,
) -> Task:
    """The task that the settings describe.

    clients: in place of task.clients. data_dir: where the data sets' files lie. once: where the data are loaded and
    held. Raises DataError where data are missing, corrupt or too few, or don't fit the model.
    """
    device = device or torch.device("cpu")
    dtype = getattr(torch, task.dtype)
    n = clients or task.population()
    if task.model in VECTORS and task.training is None:
        if task.dataset != "synthetic":
            raise DataError(
                f"model {task.model} is a parameter vector for communication runs: set dataset = 'synthetic'"
            )
        return VectorTask(VECTORS[task.model](), n, client, dtype, device, seed)

    def dealt() -> tuple[Dataset, Partition]:
        data = _loaded(task, data_dir, n, seed)
        _check_what_was_stated(task, data)
        return data, partition(task.partition, data.y, n, seed, data.groups)

    if task.training is None and task.model == "logistic":
        arrays = once(lambda: logistic.pack(*dealt(), client))
        return logistic.LogisticTask(arrays, client, dtype=dtype, l2=task.l2)
    data, shares = held.unpack(once(lambda: held.pack(*dealt(), dtype)))
    if task.training is not None:
        return own_training(task, client, data, shares, dtype=dtype, device=device, seed=seed)
    with _blamed_for_training(task):
        made = NeuralTask(
            _maker(task, data.signature),
            data,
            shares,
            client,
            dtype=dtype,
            device=device,
            seed=seed,
            mlp=task.model == "mlp",
            own=task.model not in MODELS or task.loss is not None,
            loss=None if task.loss is None else load_own("task.loss", task.loss),
        )
    made.compiled = made.compiled or (task.model == "cnn" and device.type == "cpu")
    return made


def _loaded(task: TaskConfig, data_dir: Path | None, clients: int, seed: int) -> Dataset:
    """The data set that the settings name: ours, or the user's own."""
    if task.dataset in DATASETS:
        return DATASETS[task.dataset](task, data_dir, clients, seed)
    if task.dataset.partition(":")[0] in FILE_FORMATS:
        return load_files(task, data_dir)
    load, setting = load_own("task.dataset", task.dataset), f"task.dataset = {task.dataset!r}"
    # What it draws from global generators is to be the same on every rank.
    with blamed(setting, load), own_random_numbers(derive(seed, Stream.DATA), torch.device("cpu")):
        data = load(task, data_dir, clients, seed)
    if not isinstance(data, Dataset):
        ends = "; does the function end without a return?" if data is None else ""
        raise DataError(f"{setting} gave {described(data)}; it must give a qafel_mpi.tasks.Dataset{ends}")
    return data


def _check_what_was_stated(task: TaskConfig, data: Dataset) -> None:
    """Raise DataError where a named data set has not the shape or the classes that the settings state."""
    if task.dataset not in DATASETS:  # a function of the user's own does with the settings what it likes
        return
    for name, stated, found in (("shape", task.shape, data.shape), ("classes", task.classes, data.classes)):
        if stated not in (None, found):
            raise DataError(f"task.{name} = {stated}: the examples of {task.dataset} have {name} {found}")


def _maker(task: TaskConfig, signature: Signature) -> Callable[[], nn.Module]:
    """Makes the model that the settings name: ours, or the user's own."""
    if task.model in MODELS:
        return lambda: MODELS[task.model](task, signature)
    make = load_own("task.model", task.model)

    def made() -> nn.Module:
        with blamed(f"task.model = {task.model!r}", make):
            module: nn.Module = make(task, signature.shape, signature.classes)
            return module

    return made


@contextmanager
def _blamed_for_training(task: TaskConfig) -> Iterator[None]:
    """What a model or a loss of the user's raises while it is tried: one DataError, with the settings of both."""
    known = {"task.model": task.model in MODELS, "task.loss": task.loss is None}
    own = [f"{key} = {getattr(task, key[5:])!r}" for key, ours in known.items() if not ours]
    if not own:
        yield
        return
    with blamed(", ".join(own)):
        try:
            yield
        except TrainingError as error:
            raise DataError(str(error)) from error.__cause__
