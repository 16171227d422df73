"""What decides the last bits of a rank's results beside the experiment and its data: processor, library, threads.

A matrix product of other instructions, another blocking or another number of threads adds in another order. Runs
record what each rank used (the attribute arithmetic); a replay compares it with what it has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from mpi4py import MPI

from qafel_mpi.drivers.build import compute_device
from qafel_mpi.drivers.facts import device_name
from qafel_mpi.drivers.provenance import versions
from qafel_mpi.transport import placement
from qafel_mpi.transport.exchange import gather_text

PACKAGES = ("torch", "numpy", "numba")
# Variables by which oneDNN, torch, MKL, OpenBLAS, numpy and numba are told what instructions to use, or which sums.
VARIABLES = (
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "OPENBLAS_CORETYPE",
    "NPY_DISABLE_CPU_FEATURES",
    "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES",
    "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_WORKSPACE_CONFIG",
)


def arithmetic(gpu: int | None = None) -> dict[str, Any]:
    """This rank's, JSON-able. gpu: index of the one it computes on."""
    found = versions()
    return {
        "cpu": placement.cpu_model(),
        "device": device_name(compute_device(gpu)),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "versions": {name: found[name] for name in PACKAGES},
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def arithmetics(comm: MPI.Intracomm, gpu: int | None) -> list[dict[str, Any]]:
    """Collective: every rank's, on rank 0; ranks that have the same are told together."""
    return grouped(json.loads(text) for text in gather_text(comm, json.dumps(arithmetic(gpu))))


def grouped(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Records of the ranks, in their order -> the different ones, each with its ranks.

    >>> grouped([{"threads": 2}, {"threads": 1}, {"threads": 1}])
    [{'ranks': '0', 'threads': 2}, {'ranks': '1-2', 'threads': 1}]
    """
    ranks: dict[str, list[int]] = {}
    for rank, record in enumerate(records):
        ranks.setdefault(json.dumps(record), []).append(rank)
    return [{"ranks": placement.cpu_ranges(some), **json.loads(text)} for text, some in ranks.items()]
