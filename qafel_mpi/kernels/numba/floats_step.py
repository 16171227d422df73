"""The server's step with floats as the payload: x moves, and it or x − x̂ is copied, a segment at a time."""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.numba.floats import INFINITY, PATTERN, greatest
from qafel_mpi.kernels.numba.jit import jit, part
from qafel_mpi.kernels.numba.moving import (
    DIFFERENCE,
    GAP,
    STEP,
    Motion,
    Norms,
    distance2,
    move,
    norm2,
    norms_of,
)
from qafel_mpi.kernels.plan import segment_ends, shares, spread
from qafel_mpi.kernels.reference import SEGMENT


@jit
def _step_range(
    motion, total, x, m, root, numbers, x_hat, assign, first, last, infinity, values, patterns, squares
):
    """values = x and x̂ = values, or values = x − x̂ and x̂ += values. A segment that is not finite, or -1."""
    kind, payload = x_hat.dtype.type, values.dtype.type
    for k in range(first, last):
        begin, end = SEGMENT * k, min(SEGMENT * (k + 1), x.size)
        squares[k, STEP] = move(motion, total, x, m, root, numbers, begin, end)
        here, hat, out = part(x, begin, end), part(x_hat, begin, end), part(values, begin, end)
        if assign:
            squares[k, DIFFERENCE] = norm2(here)
            for i in range(out.size):
                value = payload(here[i])
                out[i] = value
                hat[i] = kind(value)
        else:
            squares[k, DIFFERENCE] = distance2(here, hat)
            for i in range(out.size):
                value = payload(here[i] - hat[i])
                out[i] = value
                hat[i] += kind(value)
        if greatest(part(patterns, begin, end)) >= infinity:
            return k
        squares[k, GAP] = distance2(here, hat)
    return -1


class FloatsStep:
    """Of vectors of d elements."""

    def __init__(self, d: int, threads: int):
        ends = segment_ends(d)
        self._shares = shares(ends, threads)
        self._squares = np.zeros((len(ends), 3))

    def move_and_step(
        self, motion: Motion, x_hat: np.ndarray, values: np.ndarray, *, assign: bool
    ) -> tuple[int, Norms]:
        """x moves; values, the payload as floats, is x or x − x̂, and x̂ follows. (A bad segment or -1, norms)."""
        patterns, infinity = values.view(PATTERN[values.itemsize]), INFINITY[values.itemsize]

        def call(i: int, first: int, last: int) -> int:
            return int(
                _step_range(*motion, x_hat, assign, first, last, infinity, values, patterns, self._squares)
            )

        return spread(call, self._shares), Norms(*norms_of(self._squares))
