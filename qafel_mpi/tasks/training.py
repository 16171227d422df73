"""The whole local training as a class of the user's own: `task.training = "module:Class"`, a subclass of Task."""

from __future__ import annotations

import torch
from torch import Tensor

from qafel_mpi.codecs.base import Layout
from qafel_mpi.own import blamed, load
from qafel_mpi.tasks.base import Evaluation, Task, TrainResult
from qafel_mpi.tasks.config import ClientConfig, TaskConfig
from qafel_mpi.tasks.datasets import Dataset
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.make import described
from qafel_mpi.tasks.partitions import Partition


def own_training(
    task: TaskConfig,
    client: ClientConfig,
    data: Dataset,
    shares: Partition,
    *,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
) -> Task:
    """An object of the class that task.training names, tried before it is used.

    The class is made as Class(task, client, data, shares, dtype=, device=, seed=). Raises DataError where it is no
    subclass of Task, or where what its methods do is not what qafel_mpi.tasks.Task says.
    """
    name = f"task.training = {task.training!r}"
    kind = load("task.training", task.training or "")
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise DataError(f"{name}: this is no subclass of qafel_mpi.tasks.Task")
    if missing := sorted(kind.__abstractmethods__):
        raise DataError(f"{name}: the class lacks {', '.join(missing)}")
    with blamed(name, kind, "it can't be made: "):
        made = kind(task, client, data, shares, dtype=dtype, device=device, seed=seed)  # type: ignore[call-arg]
    with blamed(name, kind, "in a trial with client 0, "):
        _check_attributes(name, made, len(shares))
        made.data_digest = made.data_digest or data.digest()
        _use(name, made, seed)
    return made


def _check_attributes(name: str, made: Task, clients: int) -> None:
    for attribute in ("layout", "dtype", "device", "clients"):
        if not hasattr(made, attribute):
            raise DataError(f"{name}: __init__ does not set self.{attribute}")
    if not isinstance(made.layout, Layout) or not made.layout.elements:
        raise DataError(f"{name}: self.layout is {described(made.layout)}; make it a qafel_mpi.codecs.Layout")
    if made.clients != clients:
        raise DataError(f"{name}: self.clients = {made.clients} for {clients} clients")
    sizes = made.sizes()
    if sizes.shape != (clients,) or sizes.min() < 1:
        raise DataError(
            f"{name}: examples gives {sizes.min()} for client {sizes.argmin()}; every client has some"
        )


def _use(name: str, made: Task, seed: int) -> None:
    x = made.initial(seed)
    _check_vector(f"{name}: initial", made, x)
    start, deltas = x.clone(), [torch.full_like(x, float("nan")) for _ in range(2)]
    for delta in deltas:
        result = made.train(0, start, delta, seed=1)
        if not isinstance(result, TrainResult):
            raise DataError(f"{name}: train gave {described(result)}; it must give a TrainResult")
        _check_vector(f"{name}: train, delta", made, delta)
    if not torch.equal(start, x):
        raise DataError(f"{name}: train changed start; copy it before the first step")
    if not torch.equal(*deltas):
        raise DataError(
            f"{name}: two trainings from the same start with the same seed differ; draw random numbers from the seed "
            "alone, and keep no state between trainings"
        )
    found = made.evaluate(x, 4)
    if not isinstance(found, Evaluation):
        raise DataError(f"{name}: evaluate gave {described(found)}; it must give an Evaluation")


def _check_vector(what: str, made: Task, x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.shape != (made.layout.elements,) or x.dtype != made.dtype:
        raise DataError(f"{what} is {described(x)}; it must be ({made.layout.elements},) {made.dtype}")
    if not torch.isfinite(x).all():
        raise DataError(f"{what} is not finite everywhere")
