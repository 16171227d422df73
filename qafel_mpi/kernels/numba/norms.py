"""Norms of what a server step moves, taken in one pass without a copy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.kernels.numba.jit import jit

# Vector registers hold parts of the sum: in another order than on other processors, but always the same one here.
_sum = jit(fastmath={"reassoc", "contract", "nsz"})


@_sum
def _distance(a, b):
    total = 0.0
    for i in range(a.size):
        difference = np.float64(a[i]) - np.float64(b[i])
        total += difference * difference
    return np.sqrt(total)


@_sum
def _norm(a):
    total = 0.0
    for i in range(a.size):
        total += np.float64(a[i]) * np.float64(a[i])
    return np.sqrt(total)


def distance(a: Tensor, b: Tensor) -> float:
    """‖a − b‖₂, summed in float64. a, b: (d,), on one device."""
    return float(torch.dist(a.double(), b.double())) if a.is_cuda else _distance(a.numpy(), b.numpy())


def norm(a: Tensor) -> float:
    """‖a‖₂, summed in float64. a: (d,)."""
    return float(torch.linalg.vector_norm(a.double())) if a.is_cuda else _norm(a.numpy())
