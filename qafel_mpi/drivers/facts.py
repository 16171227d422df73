"""What a run would give each rank, and what its hosts are: for `qafel-mpi info` and the files of benchmarks."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from typing import Any

import psutil
from mpi4py import MPI

from qafel_mpi.drivers.build import compute_device, visible_gpus
from qafel_mpi.drivers.session import device_name, device_uuid
from qafel_mpi.transport import placement


def rank_facts(comm: MPI.Intracomm) -> dict[str, Any]:
    """Collective. This rank's host, GPU, cores and MPI library, JSON-able; binds the process as a run does."""
    place = placement.place(comm, gpus=visible_gpus())
    device = compute_device(place.gpu)
    aware = placement.gpu_aware()
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
        "GPU-aware": "unknown" if aware is None else aware,
    }


def host_facts() -> dict[str, Any]:
    """This rank's host, its processor and memory, JSON-able."""
    return {
        "host": socket.gethostname(),
        "cpu": placement.cpu_model(),
        "memory_bytes": psutil.virtual_memory().total,
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
