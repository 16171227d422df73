"""Experiment -> task, codecs, server, clients: once for both drivers. And what a run gives back."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from qafel_mpi import tasks
from qafel_mpi.algorithms.client import Client, Replica
from qafel_mpi.algorithms.feedback import ErrorFeedback
from qafel_mpi.algorithms.quafl import local_rate
from qafel_mpi.algorithms.server import Server
from qafel_mpi.codecs import Codec, CodecConfig
from qafel_mpi.codecs import build as build_codec
from qafel_mpi.codecs.identity import Identity
from qafel_mpi.codecs.sizes import paper_message_bytes
from qafel_mpi.config import ConfigError, Experiment
from qafel_mpi.config_idle import idle_settings
from qafel_mpi.drivers.room import parameters_fit
from qafel_mpi.kernels.memory import keep_freed_memory
from qafel_mpi.own import said
from qafel_mpi.tasks.base import Task
from qafel_mpi.tasks.config import ClientConfig
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.transport.assignment import Gpu
from qafel_mpi.transport.coverage import Coverage
from qafel_mpi.transport.exchange import broadcast_text
from qafel_mpi.transport.window import Arrays, HostArrays, MadeElsewhereError
from qafel_mpi.wire import (
    ADOPT_BYTES,
    DIGEST_BYTES,
    FLAG_ENTROPY,
    Expected,
    Kind,
    without_payload_checksum,
)


@dataclass(frozen=True)
class Progress:
    """What a run shows while it goes on."""

    seconds: float  # on the run's clock
    uploads: int
    server_steps: int
    accuracy: float
    loss: float
    payload_bytes_up: int
    payload_bytes_down: int
    bits_per_byte: float = float("nan")  # of text


ERROR_BYTES = 1024  # of a DIVERGED: why a training failed
Report = Callable[[Progress], None]
Interrupted = Callable[[], bool]


@dataclass(frozen=True)
class RunSummary:
    """The result of a run, the same on every rank. Byte counts: payload, wire (with headers), the paper's formula."""

    outcome: str = ""  # "target reached", "finished", "interrupted", "failed: why"
    target_reached: bool = False
    interrupted: bool = False
    trace: str = ""
    algorithm: str = ""
    seed: int = 0
    uploads: int = 0
    server_steps: int = 0
    uploads_to_target: int | None = None
    accuracy: float = float("nan")
    loss: float = float("nan")
    bits_per_byte: float = float("nan")  # of text, else nan
    entropy_bits_per_byte: float = float("nan")  # of its bytes' frequencies
    payload_bytes_up: int = 0
    payload_bytes_down: int = 0
    wire_bytes_up: int = 0
    wire_bytes_down: int = 0
    down_links: int = 0
    paper_bytes_up: float = 0.0
    paper_bytes_down: float = 0.0
    dropped_messages: int = 0
    rejected_updates: int = 0
    clipped_updates: int = 0
    lost_ranks: int = 0  # client ranks that have died
    seconds: float = 0.0
    virtual_seconds: float = 0.0
    x_digest: str = ""

    def shared(self, comm: MPI.Intracomm) -> RunSummary:
        """Collective: rank 0's summary on every rank."""
        return RunSummary(**json.loads(broadcast_text(comm, json.dumps(asdict(self)))))


@dataclass
class Setup:
    """Everything that is a function of the experiment and the data, on one rank."""

    experiment: Experiment
    task: Task
    uplink: Codec
    downlink: Codec
    full: Identity  # a catch-up's codec
    clients: int
    x0: Tensor
    checksum: Coverage  # of messages
    why_copied: str  # why each rank of this host has a copy of the data; empty where they share one

    @property
    def assigns(self) -> bool:
        """The downlink carries x itself: direct, none, or an identity codec (ALGORITHM: then x̂ = x exactly)."""
        return self.experiment.downlink.mode != "hidden" or self.downlink.name == "identity"

    @property
    def unicast(self) -> bool:
        return self.experiment.downlink.delivery == "unicast"

    @property
    def pull(self) -> bool:
        """The server asks, and clients have models of their own."""
        return self.experiment.server.pull

    @property
    def kept(self) -> bool:
        """Clients keep something from one training to the next, where they live."""
        return self.pull or self.experiment.client.error_feedback

    @property
    def alone(self) -> bool:
        """Clients are trained one by one: each has a download, or a residual on the one worker that trains it."""
        return self.unicast or self.experiment.client.error_feedback

    def replica(self) -> Replica:
        return Replica(self.x0, self.downlink, assigns=self.assigns)

    def where_trained(self, x: Tensor) -> Tensor:
        """x on the device of the training: of what is computed there, only payloads are to cross to the host."""
        return x.to(self.task.device)

    def server(self) -> Server:
        e = self.experiment
        return Server(
            self.x0, self.uplink, self.replica(), e.server, e.staleness, seed=e.seed, clients=self.clients
        )

    def client(self) -> Client:
        replica = Replica(self.where_trained(self.x0), self.downlink, assigns=self.assigns)
        return self.client_of(replica)

    def client_of(self, replica: Replica) -> Client:
        """The client's side around a hidden state that is there already."""
        e = self.experiment
        sends_model = e.server.update == "model"
        return Client(replica, self.uplink, seed=e.seed, sends_model=sends_model, feedback=self.feedback())

    def feedback(self) -> ErrorFeedback | None:
        """What the clients of a rank keep of their uploads' errors; None without error feedback."""
        e = self.experiment
        if not e.client.error_feedback:
            return None
        decay, bits = e.client.error_decay, e.client.error_bits
        return ErrorFeedback(self.task.layout, self.task.dtype, seed=e.seed, decay=decay, bits=bits)

    def expected(self, more: Mapping[Kind, Expected] | None = None) -> dict[Kind, Expected]:
        """What the header of each kind of message must say in this run. more: kinds that a driver adds."""
        kinds = {
            Kind.UPDATE: _describe(self.uplink),
            Kind.BROADCAST: _describe(self.downlink),
            Kind.DOWNLOAD: _describe(self.downlink),
            Kind.MODEL: _describe(self.full),
            # Pairs of int64, (client, participation), of clients that are trained as one batch.
            Kind.TRAIN: Expected(payload_bytes=16 * self.task.together, variable=True),
            Kind.DIVERGED: Expected(payload_bytes=ERROR_BYTES, variable=True),
            Kind.STOP: Expected(),
            Kind.BYE: Expected(),
            Kind.ADOPT: Expected(payload_bytes=ADOPT_BYTES, variable=True),
            Kind.DIGEST: Expected(payload_bytes=DIGEST_BYTES),
            **(more or {}),
        }
        return without_payload_checksum(kinds) if self.checksum == "header" else kinds

    def paper_bytes(self) -> tuple[float, float]:
        """(per upload, per broadcast) by the paper's formula."""
        e = self.experiment
        return paper_message_bytes(self.task.layout, e.uplink), paper_message_bytes(
            self.task.layout, e.downlink
        )


def _describe(codec: Codec) -> Expected:
    variable = bool(codec.flags & FLAG_ENTROPY)
    return Expected(codec.id, codec.bits, codec.flags, codec.layout.elements, codec.payload_bytes(), variable)


# What torch and numpy say where an array is larger than memory, or than their numbers hold.
_TOO_LARGE = re.compile(
    "allocate|out of memory|(?<!without )overflow|negative dimension|too big|dimension exceeded|too large",
    re.IGNORECASE,
)
# Of what is made before a run: the model, the data and their parts, a batch, and what is drawn for every client.
_SIZES = (
    "task.",
    "client.batch_size",
    "evaluation.examples",
    "clock.",
    "server.buffer_size",
    "transport.receive_slots",
)


@contextmanager
def affordable(experiment: Experiment) -> Iterator[None]:
    """What is larger than memory in this block becomes a DataError that names what decides it: the model, and the
    largest numbers of those settings that sizes come from."""
    try:
        yield
    except (MemoryError, OverflowError, RuntimeError, ValueError, TypeError) as error:
        if not isinstance(error, MemoryError | OverflowError) and not _TOO_LARGE.search(str(error)):
            raise
        given = experiment.model_dump()
        idle = {".".join(one.keys) for one in idle_settings(given, Experiment)}
        sizes = sorted((size for size in _numbers(given) if size[1] not in idle), reverse=True)[:2]
        largest = ", ".join(f"{key} = {value}" for value, key in sizes)
        model = experiment.task.model
        why = (str(error).splitlines() or ["out of memory"])[0]
        raise DataError(
            f"this run needs more memory than there is ({why}); it comes from task.model = {model!r}, and from its "
            f"largest numbers, {largest}"
        ) from error


def _numbers(tables: Mapping[str, Any], section: str = "") -> Iterator[tuple[int, str]]:
    """The whole numbers among the settings that may be sizes, with their keys."""
    for name, value in tables.items():
        key = f"{section}{name}"
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{key}.")
        elif key.startswith(_SIZES):
            items = value if isinstance(value, list | tuple) else [value]
            yield from ((item, key) for item in items if isinstance(item, int) and not isinstance(item, bool))


def build(
    experiment: Experiment,
    *,
    clients: int,
    device: torch.device,
    threads: int,
    data_dir: Path | None,
    checksum: Coverage,
    memory: HostArrays,
) -> Setup:
    """Collective over the ranks of a host, which hold the data once, in `memory`.

    Raises DataError or ConfigError where the settings don't fit the data.
    """
    with affordable(experiment), parameters_fit():
        torch.set_num_threads(threads)
        use(device)
        task = tasks.build(
            experiment.task,
            _trained_as(experiment),
            seed=experiment.seed,
            clients=clients,
            device=device,
            data_dir=data_dir,
            once=partial(_once, experiment, memory),
        )
        keep_freed_memory()  # from here on: what was read to load the data goes back
        uplink, downlink = (
            _codec(link, getattr(experiment, link), task, threads) for link in ("uplink", "downlink")
        )
        x0 = task.initial(experiment.seed).to("cpu")
        if experiment.stop.accuracy is not None and math.isnan(_accuracy(task, x0)):
            raise ConfigError(
                ["stop.accuracy: this task has no accuracy; use loss, uploads, steps or seconds"]
            )
        full = Identity(task.layout, task.dtype)
        return Setup(experiment, task, uplink, downlink, full, clients, x0, checksum, memory.why_not)


def _trained_as(experiment: Experiment) -> ClientConfig:
    """With server.pull a training of the task is one step, at QuAFL's rate; drivers/pulled.py counts P of them."""
    client = experiment.client
    if not experiment.server.pull:
        return client
    rate = local_rate(client.learning_rate, experiment.server.buffer_size)
    return client.model_copy(update={"local_steps": 1, "local_epochs": None, "learning_rate": rate})


def _codec(link: str, config: CodecConfig, task: Task, threads: int) -> Codec:
    """Raises DataError that names the link."""
    try:
        return build_codec(config, task.layout, task.dtype, threads=threads)
    except DataError as error:
        raise DataError(f"{link}: {error}") from error


def _accuracy(task: Task, x: Tensor) -> float:
    """Raises DataError where the model can't be evaluated."""
    try:
        return task.evaluate(x, 1).accuracy
    except Exception as error:
        raise DataError(f"the model can't be evaluated: {said(error)}") from error


def _once(experiment: Experiment, memory: HostArrays, make: Callable[[], Arrays]) -> Arrays:
    """Raises DataError on all ranks of the host where its first rank did."""

    def made() -> Arrays:
        with affordable(experiment):
            return make()

    try:
        return memory.once(made)
    except MadeElsewhereError as error:
        raise (DataError if error.kind == DataError.__name__ else RuntimeError)(str(error)) from None


def compute_device(gpu: int | None) -> torch.device:
    return torch.device("cpu") if gpu is None else torch.device("cuda", gpu)


def use(device: torch.device) -> None:
    """Make a GPU the one that this thread's kernels go to."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def visible_gpus() -> tuple[Gpu, ...]:
    """Those that this process may use: what CUDA_VISIBLE_DEVICES leaves of the host's."""
    if not torch.cuda.is_available():
        return ()
    return tuple(_gpu(index) for index in range(torch.cuda.device_count()))


def _gpu(index: int) -> Gpu:
    about: Any = torch.cuda.get_device_properties(index)
    address = ""
    if hasattr(about, "pci_bus_id"):  # not in older versions of torch
        address = f"{about.pci_domain_id:04x}:{about.pci_bus_id:02x}:{about.pci_device_id:02x}.0"
    return Gpu(index, str(about.uuid), address, about.name)
