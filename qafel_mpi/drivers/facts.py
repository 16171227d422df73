"""What each rank is given, and what its hosts are: for traces, `qafel-mpi info` and the files of benchmarks."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from typing import Any

import psutil
import torch
from mpi4py import MPI

from qafel_mpi.drivers.build import compute_device, visible_gpus
from qafel_mpi.drivers.energy import Energy
from qafel_mpi.drivers.provenance import container, network_devices
from qafel_mpi.trace_schema import NOT_ENDED
from qafel_mpi.transport import placement


def rank_facts(comm: MPI.Intracomm) -> dict[str, Any]:
    """Collective. This rank's host, GPU, cores and MPI library, JSON-able; binds the process as a run does."""
    place = placement.place(comm, gpus=visible_gpus())
    device = compute_device(place.gpu)
    return {
        "rank": place.rank,
        "host": place.host,
        "gpu": f"{place.gpu}: {device_name(device)} {device_uuid(device)}" if place.gpu is not None else None,
        "ranks on it": place.gpu_ranks or None,
        "cores": placement.cpu_ranges(place.cores),
        "threads": place.threads,
        "bound by": place.bound_by,
        "mpi": placement.mpi_library(),
        "standard": placement.mpi_standard(),
        "thread level": placement.thread_level(),
        "GPU-aware": _gpu_aware(),
    }


def _gpu_aware() -> bool | str:
    aware = placement.gpu_aware()
    return "unknown" if aware is None else aware


def host_facts() -> dict[str, Any]:
    """This rank's host, JSON-able: processor, memory, network, container, and whether its MPI takes GPU buffers."""
    return {
        "host": socket.gethostname(),
        "cpu": placement.cpu_model(),
        "memory_bytes": psutil.virtual_memory().total,
        "network": network_devices(),
        "container": container(os.environ),
        "gpu_aware": _gpu_aware(),
    }


def hosts(facts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """host_facts of every rank -> one record a host, in the order of their first ranks, with its number of ranks.

    >>> hosts([{"host": "n1"}, {"host": "n2"}, {"host": "n1"}])
    [{'host': 'n1', 'ranks': 2}, {'host': 'n2', 'ranks': 1}]
    """
    found: dict[str, dict[str, Any]] = {}
    for fact in facts:
        found.setdefault(fact["host"], {**fact, "ranks": 0})["ranks"] += 1
    return list(found.values())


def rank_row(
    place: placement.Placement,
    *,
    version: int = NOT_ENDED,
    x_hat_digest: str = "",
    sent: int = 0,
    received: int = 0,
    dropped: int = 0,
    rows_written: int = NOT_ENDED,
) -> tuple[Any, ...]:
    """A row of /ranks."""
    device = compute_device(place.gpu)
    return (
        place.rank,
        place.local_rank,
        place.pid,
        place.host.encode(),
        str(device).encode(),
        device_name(device).encode()[:64],
        device_uuid(device).encode()[:64],
        placement.cpu_ranges(place.cores).encode()[:128],
        place.threads,
        placement.mpi_library().encode()[:128],
        placement.mpi_standard().encode(),
        placement.thread_level().encode(),
        version,
        x_hat_digest.encode(),
        sent,
        received,
        dropped,
        placement.peak_memory_bytes(),
        rows_written,
    )


def energy_of(place: placement.Placement) -> Energy:
    """What this rank reads of the machine's counters of energy."""
    return Energy(
        place.host, processors=place.local_rank == 0, gpu_uuid=device_uuid(compute_device(place.gpu))
    )


def device_name(device: torch.device) -> str:
    return placement.cpu_model() if device.type == "cpu" else torch.cuda.get_device_name(device)


def device_uuid(device: torch.device) -> str:
    return "" if device.type == "cpu" else str(torch.cuda.get_device_properties(device).uuid)
