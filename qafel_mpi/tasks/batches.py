"""Mini-batches: which examples each local step sees."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def batches(indices: Tensor, size: int, steps: int, seed: int, least: int = 1) -> Iterator[Tensor]:
    """`steps` batches of up to `size` of the indices, without replacement, shuffled anew every epoch.

    indices: (n,) int64. seed: a derived key; the order depends on it and on n alone. A batch of all examples is
    not shuffled: its order has no effect. least: an epoch's last batch joins the one before it where it would have
    fewer examples than this.
    """
    n = len(indices)
    if size >= n:
        for _ in range(steps):
            yield indices
        return
    begins = list(range(0, n, size))
    if n - begins[-1] < least:
        begins.pop()
    ends = [*begins[1:], n]
    generator = torch.Generator().manual_seed(seed & (2**63 - 1))
    done = 0
    while True:
        order = indices[torch.randperm(n, generator=generator)]
        for begin, end in zip(begins, ends, strict=True):
            if done == steps:
                return
            yield order[begin:end]
            done += 1
