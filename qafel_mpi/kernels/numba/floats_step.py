"""The server's step with floats as the payload: x moves, and it or x − x̂ is copied, a segment at a time."""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.numba import moving_lanes as simd
from qafel_mpi.kernels.numba.floats import INFINITY
from qafel_mpi.kernels.numba.jit import jit, part, uncounted
from qafel_mpi.kernels.numba.moving import (
    Motion,
    Norms,
    Stepping,
    move_and_copy,
    move_and_subtract,
    put_squares,
)
from qafel_mpi.kernels.plan import segment_ends
from qafel_mpi.kernels.reference import SEGMENT

_AT_ONCE = 1024  # elements: of five vectors they lie in the first-level cache


@jit
def _step_range(
    motion, total, x, m, root, numbers, x_hat, assign, first, last, infinity, values, sums, squares
):
    """values = x and x̂ = values, or values = x − x̂ and x̂ += values. A segment that is not finite, or -1."""
    total, x, m, root, numbers = (
        uncounted(total),
        uncounted(x),
        uncounted(m),
        uncounted(root),
        uncounted(numbers),
    )
    x_hat, values, sums = uncounted(x_hat), uncounted(values), uncounted(sums)
    for k in range(first, last):
        stop = min(SEGMENT * (k + 1), x.size)
        for begin in range(SEGMENT * k, stop, _AT_ONCE):
            end = min(begin + _AT_ONCE, stop)
            v = part(values, begin, end)
            if assign:
                top = move_and_copy(motion, total, x, m, root, numbers, begin, end, sums, v)
            else:
                top = move_and_subtract(motion, total, x, m, root, numbers, x_hat, begin, end, sums, v)
            if top >= infinity:
                sums[:] = 0.0
                return k
            if assign:
                simd.follow_assigned(v, total, x, m, x_hat, begin, end, 1, sums)
            else:
                simd.follow(v, total, x, m, x_hat, begin, end, 1, sums)
        put_squares(sums, squares, k)
    return -1


class FloatsStep(Stepping):
    """Of vectors of d elements. payload: its type, "<f4" or "<f8". assign: it is x; otherwise x − x̂."""

    def __init__(self, d: int, payload: str, threads: int, *, assign: bool):
        super().__init__(segment_ends(d), threads)
        self._payload, self._assign = np.dtype(payload), assign
        self._bytes = d * self._payload.itemsize

    def move_and_step(
        self, motion: Motion, x_hat: np.ndarray, payload: np.ndarray, key: int
    ) -> tuple[int, Norms]:
        """x moves; the payload is x or x − x̂, and x̂ follows. Returns (a segment that is not finite or -1, norms)."""
        values = payload[: self._bytes].view(self._payload)
        infinity = INFINITY[values.itemsize]

        def call(i: int, first: int, last: int, sums: np.ndarray, squares: np.ndarray) -> int:
            return int(
                _step_range(*motion, x_hat, self._assign, first, last, infinity, values, sums, squares)
            )

        return self.step(call)
