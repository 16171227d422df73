"""The virtual clock: client updates against the bare training, speed-up over workers, memory over clients.

A sample is a whole run, timed from its first event to its last, in seconds per training that was done. Reading
data, loading kernels and merging the trace are outside; packing, schedule, server and recording are inside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Protocol

import h5py
import numpy as np
import torch
from mpi4py import MPI
from torch.nn.functional import cross_entropy

from qafel_mpi import tasks
from qafel_mpi.bench.measuring.ranks import REDUCTION_ROOT, agree, shared_folder
from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Case, Limits, Samples, interleave
from qafel_mpi.config import Experiment, from_toml, load
from qafel_mpi.tasks.logistic import LogisticTask
from qafel_mpi.tasks.models.cnn import CNN

BARE_CNN = "a torch loop of the same passes and SGD steps, and nothing else"
BARE_CHANNELS_LAST = "the same torch loop, its images in channels-last order"
BARE_LOGISTIC = "a torch loop of the same full-batch steps, and nothing else"
BARE_KERNEL = "our own training of the same clients in batches of ten, and nothing else"
ONE_WORKER = "one worker"
CNN_CLIENTS, CNN_EXAMPLES, CNN_CONCURRENCY = 200, 32, 20  # a client has one batch
# As in the CelebA experiments, on made images: 4 bits both ways, K = 10.
CNN_RUN = f"""
algorithm = "qafel"
[task]
dataset = "synthetic"
model = "cnn"
shape = [3, 32, 32]
classes = 2
dropout = 0.1
clients = {CNN_CLIENTS}
examples = {CNN_CLIENTS * CNN_EXAMPLES}
[client]
learning_rate = 0.01
local_epochs = 1
batch_size = {CNN_EXAMPLES}
[server]
buffer_size = 10
momentum = 0.3
[uplink]
codec = "affine"
bits = 4
[downlink]
codec = "affine"
bits = 4
[clock]
kind = "virtual"
start = "always"
concurrency = {CNN_CONCURRENCY}
[stop]
uploads = UPLOADS
[evaluation]
every_steps = 1000000
examples = 1
"""
SMALL = """
algorithm = "qafel"
[task]
dataset = "synthetic"
model = "mlp"
shape = [2]
classes = 2
hidden = 4
clients = CLIENTS
[client]
learning_rate = 0.05
local_steps = 1
[clock]
kind = "virtual"
concurrency = 100
[stop]
uploads = 300
[evaluation]
every_steps = 1000000
examples = 100
"""
# The paper's logistic regression, on made data of mushrooms' size.
LOGISTIC = ("task.dataset=synthetic", "task.shape=[112]", "task.classes=2", "task.examples=8124")


class Summary(Protocol):
    """What is needed of a run's."""

    @property
    def seconds(self) -> float: ...
    @property
    def uploads(self) -> int: ...


Drive = Callable[[Experiment, MPI.Intracomm | None, Path], Summary]  # drivers.virtual.run


def logistic_experiment(steps: int) -> Experiment:
    """Ten uploads a step."""
    return load("mushrooms-qsgd", [*LOGISTIC, f"stop.steps={steps}"])


def cnn_experiment(uploads: int) -> Experiment:
    return from_toml(CNN_RUN.replace("UPLOADS", str(uploads)))


def run_seconds(drive: Drive, experiment: Experiment, comm: MPI.Intracomm | None, trainings: int) -> float:
    """Collective: one run, in seconds a training; its trace goes to a folder that is removed."""
    with shared_folder(comm) as folder:
        summary = drive(experiment, comm, folder / "run.h5")
    return summary.seconds / trainings


# --- one process against the bare training ---------------------------------------------------------------


def overhead(drive: Drive, limits: Limits, *, cnn_uploads: int, logistic_steps: int) -> Iterator[Row]:
    """In this process alone."""
    yield from _cnn_rows(drive, limits, cnn_uploads)
    yield from _logistic_rows(drive, limits, logistic_steps)


def _cnn_rows(drive: Drive, limits: Limits, uploads: int) -> Iterator[Row]:
    # All that train at the start, and one more at every finish but the last.
    trainings = uploads + CNN_CONCURRENCY - 1
    experiment = cnn_experiment(uploads)
    cases: dict[str, Case] = {
        "ours": partial(run_seconds, drive, experiment, None, trainings),
        "reference": partial(bare_cnn, experiment, trainings),
        "channels last": partial(bare_cnn, experiment, trainings, torch.channels_last),
    }
    samples = interleave(cases, limits, loops=trainings)
    parameters = {"task": "cnn, batch 32", "ranks": 1}
    yield _row("overhead", parameters, samples, BARE_CNN)
    against = {"ours": samples["ours"], "reference": samples["channels last"]}
    yield _row("overhead over channels-last", parameters, against, BARE_CHANNELS_LAST)


def bare_cnn(
    experiment: Experiment, trainings: int, order: torch.memory_format = torch.contiguous_format
) -> float:
    """Seconds a client: forward, backward and an SGD step on a batch of 32 images, by torch's layers."""
    torch.set_num_threads(1)
    model = CNN(3, 2, experiment.task.dropout).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=experiment.client.learning_rate)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(CNN_CLIENTS, CNN_EXAMPLES, 3, 32, 32, generator=generator)
    y = torch.randint(0, 2, (CNN_CLIENTS, CNN_EXAMPLES), generator=generator)
    batches = [images.contiguous(memory_format=order) for images in x]
    begun = perf_counter()
    for i in range(trainings):
        client = i % CNN_CLIENTS
        optimizer.zero_grad()
        cross_entropy(bare_outputs(model, batches[client]), y[client]).backward()
        optimizer.step()
    return (perf_counter() - begun) / trainings


def bare_outputs(model: CNN, x: torch.Tensor) -> torch.Tensor:
    """The model's outputs in the words of torch alone, without our kernels."""
    for convolution in model.convolutions:
        x = torch.max_pool2d(torch.relu(model.norm(convolution(x))), 2)
    outputs: torch.Tensor = model.linear(model.dropout(x.flatten(1)))
    return outputs


def _logistic_rows(drive: Drive, limits: Limits, steps: int) -> Iterator[Row]:
    experiment = logistic_experiment(steps)
    trainings = 10 * steps + experiment.task.population()
    task = logistic_task(experiment)
    cases: dict[str, Case] = {
        "ours": partial(run_seconds, drive, experiment, None, trainings),
        "reference": partial(bare_logistic, task, trainings // 10),
        "kernel": partial(bare_kernel, task, trainings, experiment.server.buffer_size),
    }
    samples = interleave(cases, limits, loops=trainings)
    parameters = {"task": "logistic regression", "ranks": 1}
    yield _row("overhead", parameters, samples, BARE_LOGISTIC)
    against_own = {"ours": samples["ours"], "reference": samples["kernel"]}
    yield _row("overhead of our training", parameters, against_own, BARE_KERNEL)


def logistic_task(experiment: Experiment) -> LogisticTask:
    settings = experiment.task
    task = tasks.build(
        settings,
        experiment.client,
        seed=experiment.seed,
        clients=settings.population(),
        device=torch.device("cpu"),
    )
    assert isinstance(task, LogisticTask)
    return task


def bare_logistic(task: LogisticTask, trainings: int) -> float:
    """Seconds a client: P full-batch gradient steps on its 81 or 82 rows, in float64."""
    torch.set_num_threads(1)
    start = task.initial(0)
    rows = [torch.from_numpy(task.rows(client)) for client in range(task.clients)]
    begun = perf_counter()
    for i in range(trainings):
        descend(task, rows[i % task.clients], start)
    return (perf_counter() - begun) / trainings


def descend(task: LogisticTask, b: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """y_P by the formula: y ← y − η ∇f(y) of the rows b."""
    y, rate = start.clone(), task.client.learning_rate
    for _ in range(task.client.steps(1)):
        pull = torch.sigmoid(-(b @ y)) @ b
        y.mul_(1 - rate * task.l2).add_(pull, alpha=rate / len(b))
    return y


def bare_kernel(task: LogisticTask, trainings: int, batch: int) -> float:
    """Seconds a client, in batches as large as a server step's uploads."""
    start, seeds = task.initial(0), [0] * batch
    deltas = torch.empty((batch, task.layout.elements), dtype=task.dtype)
    clients = np.random.default_rng(0).integers(0, task.clients, (trainings // batch, batch)).tolist()
    begun = perf_counter()
    for some in clients:
        task.train_together(some, start, deltas, seeds)
    return (perf_counter() - begun) / trainings


def _row(operation: str, parameters: dict[str, object], samples: dict[str, Samples], reference: str) -> Row:
    ours = samples["ours"]
    return Row(
        "virtual",
        {"operation": operation, **parameters},
        ours,
        samples["reference"],
        reference,
        reduction="one process" if parameters["ranks"] == 1 else REDUCTION_ROOT,
        derived={"updates_per_s": 1 / ours.median},
    )


# --- more workers --------------------------------------------------------------------------------------------


def speedup(drive: Drive, comm: MPI.Intracomm, limits: Limits, *, cnn_uploads: int) -> Iterator[Row]:
    """Collective: the same run with one worker (two ranks) and with 2, 3, … of them; ratio is the speed-up."""
    experiment = cnn_experiment(cnn_uploads)
    trainings = cnn_uploads + CNN_CONCURRENCY - 1
    for workers in range(2, comm.size):
        cases: dict[str, Case] = {
            "ours": partial(_among_first, drive, comm, workers + 1, experiment, trainings),
            "reference": partial(_among_first, drive, comm, 2, experiment, trainings),
        }
        samples = interleave(cases, limits, loops=trainings, agree=agree(comm))
        parameters: dict[str, object] = {"task": "cnn, batch 32", "ranks": workers + 1}
        yield _row(f"speed-up of {workers} workers", parameters, samples, ONE_WORKER)


def _among_first(
    drive: Drive, comm: MPI.Intracomm, ranks: int, experiment: Experiment, trainings: int
) -> float:
    """Collective: run_seconds on the first ranks; the others sleep meanwhile."""
    some = MPI.Intracomm(comm.Split(0 if comm.rank < ranks else 1, comm.rank))
    seconds = run_seconds(drive, experiment, some, trainings) if comm.rank < ranks else 0.0
    some.Free()
    done = comm.Ibarrier()
    while not done.Test():
        time.sleep(0.001)
    return seconds


# --- memory ------------------------------------------------------------------------------------------------------


def memory(drive: Drive, comm: MPI.Intracomm, clients: Sequence[int]) -> Iterator[Row]:
    """Collective: peak memory of rank 0 and of the workers. clients: ascending, for a peak never falls."""
    before: tuple[int, float, float] | None = None
    for count in clients:
        with shared_folder(comm) as folder:
            out = folder / "run.h5"
            summary = drive(from_toml(SMALL.replace("CLIENTS", str(count))), comm, out)
            peaks = _peaks(out) if comm.rank == 0 else (0.0, 0.0)
        derived = {"rank_0_mb": peaks[0] / 1e6, "worker_mb": peaks[1] / 1e6}
        if before is not None:
            more = count - before[0]
            derived["rank_0_bytes_a_client"] = (peaks[0] - before[1]) / more
            derived["worker_bytes_a_client"] = (peaks[1] - before[2]) / more
        before = (count, *peaks)
        seconds = np.array([summary.seconds / max(1, summary.uploads)])
        yield Row(
            "virtual",
            {"operation": "memory", "clients": count, "ranks": comm.size},
            Samples(seconds, np.empty(0), max(1, summary.uploads)),
            reduction=REDUCTION_ROOT,
            derived=derived,
        )


def _peaks(trace: Path) -> tuple[float, float]:
    """(rank 0's, the largest worker's) peak memory in bytes; of a single process both are its own."""
    with h5py.File(trace) as file:
        peaks = file["ranks"]["peak_memory_bytes"]
    return float(peaks[0]), float(peaks[1:].max() if len(peaks) > 1 else peaks[0])
