"""Before the first step: compile and load what the run will call, and say what the user should know of its codecs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Timer

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from qafel_mpi.algorithms.optimizers import OPTIMIZERS
from qafel_mpi.codecs import Codec
from qafel_mpi.codecs.measure import contraction_warning
from qafel_mpi.drivers.build import Setup
from qafel_mpi.kernels.digests import Digests
from qafel_mpi.kernels.numba.moving import Mover, still
from qafel_mpi.kernels.numba.norms import distance, norm
from qafel_mpi.own import blamed
from qafel_mpi.tasks.base import Task
from qafel_mpi.tasks.errors import DataError, TrainingError

PATIENCE_S = 3.0  # from then on a user wonders
Wait = Callable[[Callable[[], bool], Callable[[], str]], None]


def warm_up(setup: Setup, comm: MPI.Intracomm, wait: Wait) -> None:
    """Collective: no kernel is compiled or loaded while the run is measured.

    The first rank of each host compiles; the others wait, and load what it has left on disk. Raises DataError where
    a training or an evaluation fails.
    """
    vectors = [setup.x0] if comm.rank == 0 else []
    if comm.rank > 0 or (comm.size == 1 and setup.task.device.type != "cpu"):
        vectors.append(setup.where_trained(setup.x0))
    if comm.rank == 0 and setup.experiment.trace.digests:
        setup.uplink.take_digests(Digests())  # these kernels too; who wants the digests asks the codec again
    with _after_the_first_of_this_host(comm, wait) as first, _explained(_COMPILING, say=comm.rank == 0):
        for codec in {setup.uplink, setup.downlink, setup.full}:
            for x in vectors:
                _call_codec(codec, x)
        if comm.rank == 0:
            _call_step(setup)
        if first or comm.rank > 0:  # rank 0 of several trains nothing
            alone = first and comm.rank < 2 and not setup.task.compiled
            with _said(), _explained(_first_training(setup), say=alone):
                _call_task(setup.task, setup.x0)


@contextmanager
def _after_the_first_of_this_host(comm: MPI.Intracomm, wait: Wait) -> Iterator[bool]:
    """Collective. Yields whether this rank is its host's first; the others enter when it has left."""
    host = comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.rank)
    first = host.rank == 0
    try:
        if not first:
            wait(
                host.Ibarrier().Test,
                lambda: "the first rank of its host to compile" if host.rank == 1 else "",
            )
        yield first
    finally:
        if first:
            wait(host.Ibarrier().Test, lambda: "the other ranks of its host to finish loading")
        host.Free()


_COMPILING = "qafel-mpi: compiling kernels; they are kept for the next run"


def _first_training(setup: Setup) -> str:
    """What is said of a training that takes long."""
    examples = setup.task.examples(0)
    steps = setup.experiment.client.steps(examples)
    return (
        f"qafel-mpi: before the run client 0 trains on trial, {steps:,} steps on {examples:,} examples: each upload "
        "will take as long"
    )


@contextmanager
def _explained(text: str, *, say: bool) -> Iterator[None]:
    """Say it on stderr where the block takes long."""
    timer = Timer(PATIENCE_S, print, (text,), {"file": sys.stderr, "flush": True})
    if say:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _said() -> Iterator[None]:
    """What code of the user's raises after it passed its trial: one message."""
    with blamed("in a trial before the run"):
        try:
            yield
        except TrainingError as error:
            raise DataError(str(error)) from error


def _call_codec(codec: Codec, x0: Tensor) -> None:
    distance(x0, x0)
    norm(x0)
    payload = np.zeros(codec.payload_bytes(), dtype=np.uint8)
    scratch = torch.zeros_like(x0)
    size = codec.encode_difference(x0, scratch, payload, 0)
    codec.encode(x0, payload, 0)
    codec.decode(payload[:size], scratch, 0)
    codec.accumulate(payload[:size], scratch, 1.0, 0)
    sizes = codec.encode_all(torch.stack([x0, x0]), [payload, payload], np.zeros(2, np.uint64))
    codec.accumulate_all([payload[: sizes[1]]] * 2, scratch, [1.0, 1.0], [0, 0])
    if codec.own_sums:
        sums = torch.zeros(codec.sum_elements, dtype=x0.dtype, device=x0.device)
        codec.sum_all([payload[: sizes[1]]], sums, [1.0], [0])
        codec.resolve(sums, 0)


def _call_step(setup: Setup) -> None:
    x = torch.zeros_like(setup.x0)
    config = setup.experiment.server
    one = x[:1].numpy()
    OPTIMIZERS[config.optimizer](config, x[:1]).motion(one, one, factor=1.0, zero=0.0, rate=0.0)
    motion, payload = still(x.numpy()), np.zeros(setup.downlink.payload_bytes(), dtype=np.uint8)
    if setup.unicast:
        Mover(x.numel(), 1).move(motion)
    else:
        setup.downlink.move_and_encode(motion, torch.zeros_like(x).numpy(), payload, 0, assigns=setup.assigns)


def _call_task(task: Task, x0: Tensor) -> None:
    start = x0.to(task.device)
    clients = range(min(2, task.together, task.clients))
    deltas = torch.empty((max(1, len(clients)), x0.numel()), dtype=x0.dtype, device=task.device)
    task.train(0, start, deltas[0], 0)
    if task.together > 1:
        task.train_together(clients, start, deltas[: len(clients)], [0] * len(clients))
    task.evaluate(start, 1)


def say_what_to_know(setup: Setup) -> None:
    """On rank 0's stderr: what the task has to say, an algorithm that is not what its name says, and a codec that is
    no contraction (Definition 2.1), with its measured δ."""
    name, label = setup.experiment.algorithm, setup.experiment.algorithm_label
    if label != name:
        say_once(f"this is not {name} by its definition; the trace and all tables call it {label}")
    for note in setup.task.notes:
        say_once(note)
    for link, codec in (("uplink", setup.uplink), ("downlink", setup.downlink)):
        if warning := contraction_warning(codec, seed=setup.experiment.seed):
            say_once(f"{link}: {warning}")


@cache
def say_once(text: str) -> None:
    """Once a process: a suite's runs would all say the same."""
    print(f"qafel-mpi: {text}", file=sys.stderr, flush=True)
