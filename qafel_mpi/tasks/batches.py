"""Mini-batches: which examples each local step sees."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def batches(indices: Tensor, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """`steps` batches of up to `size` of the indices, without replacement, shuffled anew every epoch.

    indices: (n,) int64. seed: a derived key; the order depends on it and on n alone. A batch of all examples is
    not shuffled: its order has no effect.
    """
    n = len(indices)
    if size >= n:
        for _ in range(steps):
            yield indices
        return
    generator = torch.Generator().manual_seed(seed & (2**63 - 1))
    done = 0
    while True:
        order = indices[torch.randperm(n, generator=generator)]
        for begin in range(0, n, size):
            if done == steps:
                return
            yield order[begin : begin + size]
            done += 1
