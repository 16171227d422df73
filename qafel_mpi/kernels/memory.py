"""Vectors in huge pages, and freed memory that is kept.

A model's vector of 4 kB pages keeps the processor waiting for addresses, not for data. numpy asks Linux for huge
pages (madvise) for arrays of 4 MB and more; torch does so for all its memory or none (THP_MEM_ALLOC_ENABLE), where
whatever allocates for each call then pays for pages of 2 MB each time.

Each other vector begins half a small page further. Processors tell a load from an earlier store by the address within
4 kB at first: of two vectors that begin alike, one read and one written in step, loads wait for stores of no concern
to them ("4K aliasing"). Both were measured at 11e6 elements by `qafel-mpi bench codec`.
"""

from __future__ import annotations

import ctypes
import itertools
import warnings

import numpy as np
import torch
from torch import Tensor

_LEAST_BYTES = 1 << 22  # what numpy asks for huge pages from
_PAGE = 4096  # bytes; numpy begins anywhere in it
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_... of malloc.h
_KEPT_BYTES = (1 << 31) - 1  # as much as a step frees
_RETURNED_BYTES = 32 << 20  # arrays from here on are given back; glibc takes no more
_begins = itertools.cycle((0, _PAGE // 2))


def vector(elements: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """(elements,), uninitialised: for vectors that live long, and are read and written as a whole.

    Raises MemoryError, or torch's RuntimeError, where there is no room.
    """
    size = elements * dtype.itemsize
    if size < _LEAST_BYTES or torch.device(device).type != "cpu":
        return torch.empty(elements, dtype=dtype, device=device)
    room = np.empty(size + _PAGE, dtype=np.uint8)
    begin = (next(_begins) - room.ctypes.data) % _PAGE
    return torch.from_numpy(room[begin : begin + size]).view(dtype)


def zeros(elements: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(elements,) zeros, as memory of `vector` on the CPU. Written: pages that were only promised are read from the
    cache."""
    return vector(elements, dtype).zero_()


def vector_like(x: Tensor) -> Tensor:
    """Uninitialised, of the elements, dtype and device of x, (d,)."""
    return torch.empty_like(x) if x.is_cuda else vector(x.numel(), x.dtype)


def copy_of(x: Tensor) -> Tensor:
    """x, (d,), in memory of its own."""
    return vector_like(x).copy_(x)


def tensor_of(array: np.ndarray) -> Tensor:
    """The array as a tensor on the same memory. Of a read-only array nobody may write into the tensor either."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for this process's next arrays. Returns whether it does; other libraries don't.

    A training step frees all that it has allocated, glibc gives the end of its heap back to Linux, and the next step
    waits for each page of 4 kB again: up to a third of a small network's time. The peak stays what it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_TRIM_THRESHOLD, _KEPT_BYTES), (_MMAP_THRESHOLD, _RETURNED_BYTES))
    return all(mallopt(name, size) == 1 for name, size in settings)


def give_freed_memory_back() -> None:
    """Let glibc return to Linux what it keeps, so that the memory of a process is what its objects take."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
