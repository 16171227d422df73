"""What a run would give each rank, without running: for `qafel-mpi info`."""

from __future__ import annotations

from typing import Any

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
