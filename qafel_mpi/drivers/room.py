"""The memory that this host has left, and a model that is refused while it is made where it does not fit there."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from torch.nn import Module, Parameter
from torch.nn.modules.module import register_module_parameter_registration_hook

CGROUP = Path("/sys/fs/cgroup")  # of version 2, as a container or a batch system limits it
LEAST = 5  # vectors that any rank holds which trains: x⁰, x̂, the model, its gradient, the update
LOOKED_AT = 1 << 20  # bytes of a parameter from which on the sum is looked at


@contextmanager
def parameters_fit() -> Iterator[None]:
    """While a model is made in it: MemoryError before values are written to parameters of which LEAST vectors are
    more than this host has left, where the kernel would kill the process."""
    free = free_bytes()
    sizes = weakref.WeakKeyDictionary[Module, dict[str, int]]()  # of modules that live, by parameter

    def look(module: Module, name: str, parameter: Parameter | None) -> None:
        own = sizes.setdefault(module, {})
        own[name] = 0 if parameter is None else parameter.nbytes
        if own[name] >= LOOKED_AT:
            size = sum(sum(own.values()) for own in sizes.values())
            if LEAST * size > free:
                raise MemoryError(
                    f"{LEAST} vectors of the model's parameters, {in_words(size)} each up to {name!r}, are "
                    f"{in_words(LEAST * size)}, and {in_words(free)} are free"
                )

    hook = register_module_parameter_registration_hook(look)
    try:
        yield
    finally:
        hook.remove()


def free_bytes() -> int:
    """Memory of this host that is free, or that its cgroup still allows this process."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return free if limit == "max" else min(free, int(limit) - int(used))
    except (OSError, ValueError):
        return free


def gpu_free_bytes(index: int) -> int:
    """Memory of a GPU that is free. index: among those that are visible."""
    free, _ = torch.cuda.mem_get_info(index)
    return int(free)


def in_words(size: int) -> str:
    """Bytes for a reader.

    >>> in_words(26_400_000_000), in_words(1_234_567)
    ('26.4 GB', '1.2 MB')
    """
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
