"""Random numbers from global generators, as models draw them: seeded inside, and left as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd


@contextmanager
def own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of torch, Python and numpy inside; outside they are as they were.

    A generator that a model makes for itself is not reached: it has to be seeded by whoever makes it.
    """
    python, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is there, and models use it
    with torchs_random_numbers(seed, device):
        random.seed(seed)
        np.random.seed([seed & 0xFFFFFFFF, seed >> 32])  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpys)  # noqa: NPY002


@contextmanager
def torchs_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """The same of torch's generators alone, in a tenth of the time."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # torch.manual_seed would note each seed for the GPUs too, with its stack in text: a millisecond on a CPU.
        seeded = torch.manual_seed if device.type == "cuda" else torch.default_generator.manual_seed
        seeded(seed & (2**63 - 1))
        yield


def drawing(module: nn.Module, seed: int, device: torch.device, *, own: bool) -> AbstractContextManager[None]:
    """What a training of the module runs in. own: it is the user's, and what it draws can't be known."""
    if own:
        return own_random_numbers(seed, device)
    return torchs_random_numbers(seed, device) if has_random_layers(module) else nullcontext()


def has_random_layers(module: nn.Module) -> bool:
    """Whether torch's own layers in it draw random numbers in training."""
    return any(_draws(layer) for layer in module.modules())


def _draws(layer: nn.Module) -> bool:
    if isinstance(layer, _DropoutNd):
        return layer.p > 0
    # Layers that drop out by themselves: LSTM, MultiheadAttention and their kind.
    dropout = getattr(layer, "dropout", 0.0)
    return isinstance(layer, nn.RReLU) or (isinstance(dropout, float) and dropout > 0)
