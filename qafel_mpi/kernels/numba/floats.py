"""Vectors of floats as they are: checked and copied in one pass over memory, where torch takes several.

What is not finite is seen in the bit patterns, as integers: those loops vectorise.
"""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.numba.jit import helper, jit, part
from qafel_mpi.kernels.reference import SEGMENT

PATTERN = {4: np.int32, 8: np.int64}
INFINITY = {size: np.array(np.inf, dtype=f"f{size}").view(kind).item() for size, kind in PATTERN.items()}


@helper
def greatest(patterns):
    """The largest magnitude's bit pattern, of floats given by theirs."""
    # All bits but the sign's. numba's np.iinfo says it too, and loads SciPy with the compiled function.
    kind, magnitude = patterns.dtype.type, ~(1 << (8 * patterns.itemsize - 1))
    top = kind(0)
    for i in range(patterns.size):
        top = max(top, kind(patterns[i] & kind(magnitude)))
    return top


@helper
def _copy(x, out):
    for i in range(out.size):
        out[i] = out.dtype.type(x[i])


@jit
def _top(patterns):
    """See greatest."""
    return greatest(patterns)


@jit
def _copy_top(x, out, patterns):
    """out = x, rounded to out's type. Returns greatest of out. patterns: out's."""
    top = patterns.dtype.type(0)
    for first in range(0, out.size, SEGMENT):
        last = min(first + SEGMENT, out.size)
        _copy(part(x, first, last), part(out, first, last))
        top = max(top, greatest(part(patterns, first, last)))
    return top


def all_finite(x: np.ndarray) -> bool:
    """Whether no element of x, (d,) float32 or float64, is NaN or an infinity."""
    return bool(_top(x.view(PATTERN[x.itemsize])) < INFINITY[x.itemsize])


def copy_finite(x: np.ndarray, out: np.ndarray) -> bool:
    """out = x, both (d,) float32 or float64, rounded to out's type. Whether all of out is finite."""
    return bool(_copy_top(x, out, out.view(PATTERN[out.itemsize])) < INFINITY[out.itemsize])
