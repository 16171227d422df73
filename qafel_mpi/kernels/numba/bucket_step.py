"""The server's step with buckets: x moves, x − x̂ is encoded and x̂ follows, some buckets at a time, in the cache."""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.numba.buckets import (
    INF_BITS,
    SUMS_AT,
    VALUES_AT,
    ZERO,
    BucketKernels,
    scale_of,
    tree_sum,
    unit_of,
)
from qafel_mpi.kernels.numba.jit import bits_of, helper, jit, part, prefetch, store
from qafel_mpi.kernels.numba.moving import DIFFERENCE, GAP, STEP, Motion, Norms, move, norms_of, plus_square
from qafel_mpi.kernels.numba.packing import add_levels, pack
from qafel_mpi.kernels.numba.rounding import draw, round_levels, sign_levels
from qafel_mpi.kernels.plan import SLOT, START, shares, spread
from qafel_mpi.kernels.reference import LINF, MEAN, SEGMENT

_MAGNITUDE = np.int32(0x7FFFFFFF)


@helper
def _take_difference(x, x_hat, out):
    """out = x − x̂ rounded to float32. Returns (the largest magnitude's bit pattern, ‖x − x̂‖²)."""
    top, total = np.int32(0), 0.0
    for i in range(out.size):
        v = np.float32(x[i] - x_hat[i])
        out[i] = v
        top = max(top, np.int32(bits_of(v) & _MAGNITUDE))
        total = plus_square(total, x[i], x_hat[i])
    return top, total


@helper
def _follow(levels, factor, drop, x_hat, x):
    """add_levels to x̂. Returns ‖x − x̂‖² after it."""
    total = 0.0
    if drop != 1:
        add_levels(levels, ZERO, factor, drop, False, x_hat)
        for i in range(x_hat.size):
            total = plus_square(total, x[i], x_hat[i])
        return total
    kind = x_hat.dtype.type
    for i in range(x_hat.size):
        moved = x_hat[i] + kind(np.int32(levels[i])) * factor
        x_hat[i] = moved
        total = plus_square(total, x[i], moved)
    return total


@jit
def _step_range(
    motion, total, x, m, root, numbers, x_hat, table, first, last, together, kind, s, bits, k0, k1, scratch,
    levels, payload, codes_at, squares,
):  # fmt: skip
    """The server's step of groups first..last-1, of `together` segments each; of single plans.

    Returns a non-finite segment, or -1. squares[group]: as moving.norms_of has them.
    """
    hashes, draws = scratch[:VALUES_AT].view(np.uint32), scratch[:VALUES_AT].view(np.uint16)
    values, sums = scratch[VALUES_AT:SUMS_AT].view(np.float32), scratch[SUMS_AT:].view(np.float64)
    one = x_hat.dtype.type(1)
    for group in range(first, last):
        from_, to = group * together, min((group + 1) * together, len(table) - 1)
        squares[group, STEP] = move(motion, total, x, m, root, numbers, table[from_, START], table[to, START])
        difference = gap = 0.0
        for g in range(from_, to):
            begin, slot, end = table[g, START], table[g, SLOT], table[g + 1, START]
            here, there, v = part(x, begin, end), part(x_hat, begin, end), part(values, 0, end - begin)
            top, more = _take_difference(here, there, v)
            if top >= INF_BITS:
                return g
            prefetch(x_hat, x_hat.itemsize * end)
            scale = scale_of(0.0 if kind == LINF else tree_sum(v, kind, sums), top, v.size, kind)
            store(payload, 4 * g, scale)
            if kind == MEAN:
                sign_levels(v, levels)
            else:
                draw(k0, k1, slot, v.size, hashes)
                round_levels(v, scale, s, bits, draws, levels)
            unit, drop = unit_of(scale, s)
            difference += more
            gap += _follow(levels, one * unit, drop, there, here)
            part(levels, v.size, v.size + 8)[:] = 0  # up to the next segment's slot
            pack(levels, table[g + 1, SLOT] - slot, bits, True, payload, codes_at + slot * bits // 8)
        squares[group, DIFFERENCE], squares[group, GAP] = difference, gap
    return -1


class BucketStep:
    """The step of a server whose downlink has these kernels: of a single plan, of all that x has."""

    def __init__(self, kernels: BucketKernels, threads: int):
        self._kernels = kernels
        plan = kernels.plan
        self._together = max(1, SEGMENT // plan.largest_bucket)
        ends = plan.table[1:, START]
        groups = np.append(ends[self._together - 1 : -1 : self._together], ends[-1])
        self._shares = shares(groups, threads)
        self._squares = np.zeros((len(groups), 3))

    def move_and_step(
        self, motion: Motion, x_hat: np.ndarray, payload: np.ndarray, key: int
    ) -> tuple[int, Norms]:
        """x moves; payload = Q(x − x̂); x̂ += decode(payload). Returns (a non-finite segment or -1, norms)."""
        k, k0, k1 = self._kernels, key & 0xFFFFFFFF, key >> 32

        def call(i: int, first: int, last: int) -> int:
            return int(
                _step_range(
                    *motion, x_hat, k.table, first, last, self._together, k.kind, k.s, k.bits, k0, k1,
                    k.scratch[i], k.levels[i], payload, k.codes_at, self._squares,
                )
            )  # fmt: skip

        return spread(call, self._shares), Norms(*norms_of(self._squares))
