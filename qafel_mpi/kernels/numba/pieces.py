"""Parts of a vector that lie apart: gathered, put back, copied, added up.

pieces: (n, 3) int64 of [first element in the long vector, first element in the short one, elements]
(codecs.base.Layout.pieces). Tensors of exempted norms and biases are many and short: one call takes them all.
"""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.numba.floats import INFINITY, PATTERN, greatest
from qafel_mpi.kernels.numba.jit import helper, jit, part


@helper
def _copy(x, out):
    for i in range(out.size):
        out[i] = x[i]


@helper
def _subtract(x, y, out):
    for i in range(out.size):
        out[i] = x[i] - y[i]


@helper
def _put(values, acc, weight):
    for i in range(acc.size):
        acc[i] = weight * acc.dtype.type(values[i])


@helper
def _add(values, acc, weight):
    for i in range(acc.size):
        acc[i] += weight * acc.dtype.type(values[i])


@jit
def gather(x, pieces, out):
    """out = the pieces of x, one behind the other. x: the long vector; out: the short one."""
    for k in range(len(pieces)):
        place, begin, size = pieces[k, 0], pieces[k, 1], pieces[k, 2]
        _copy(part(x, place, place + size), part(out, begin, begin + size))


@jit
def scatter(y, pieces, out):
    """The pieces of out = y. y: the short vector; out: the long one."""
    for k in range(len(pieces)):
        place, begin, size = pieces[k, 0], pieces[k, 1], pieces[k, 2]
        _copy(part(y, begin, begin + size), part(out, place, place + size))


@jit
def subtract(x, y, pieces, out):
    """out = x − y at the pieces, and nowhere else. All are long vectors."""
    for k in range(len(pieces)):
        place, end = pieces[k, 0], pieces[k, 0] + pieces[k, 2]
        _subtract(part(x, place, end), part(y, place, end), part(out, place, end))


@jit
def _top(x, pieces, out, patterns):
    gather(x, pieces, out)
    return greatest(patterns)


@jit
def _accumulate(values, pieces, acc, weight, assign):
    for k in range(len(pieces)):
        place, begin, size = pieces[k, 0], pieces[k, 1], pieces[k, 2]
        target, factor = part(acc, place, place + size), acc.dtype.type(weight)
        if assign:
            _put(part(values, begin, begin + size), target, factor)
        else:
            _add(part(values, begin, begin + size), target, factor)


@jit
def _accumulate_rows(rows, pieces, acc, weights):
    size = rows.size // weights.size
    for k in range(len(pieces)):
        place, begin, n = pieces[k, 0], pieces[k, 1], pieces[k, 2]
        for i in range(weights.size):
            values = part(rows, i * size + begin, i * size + begin + n)
            _add(values, part(acc, place, place + n), acc.dtype.type(weights[i]))


def copy_pieces(x: np.ndarray, pieces: np.ndarray, out: np.ndarray) -> bool:
    """`gather`, rounded to out's type, float32 or float64. Whether all of out is finite."""
    return bool(_top(x, pieces, out, out.view(PATTERN[out.itemsize])) < INFINITY[out.itemsize])


def add_pieces(
    values: np.ndarray, pieces: np.ndarray, acc: np.ndarray, weight: float, *, assign: bool
) -> None:
    """The pieces of acc += weight · values, or = weight · values."""
    _accumulate(values, pieces, acc, weight, assign)


def add_rows(rows: np.ndarray, pieces: np.ndarray, acc: np.ndarray, weights: np.ndarray) -> None:
    """add_pieces of one vector after the other, with the same bits. rows: (n · d,), they; weights: (n,) float64."""
    _accumulate_rows(rows, pieces, acc, weights)
