"""The server's step with buckets: x moves, x − x̂ is encoded and x̂ follows, bucket by bucket, in the cache."""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.numba import moving_lanes as simd
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
from qafel_mpi.kernels.numba.jit import inlined, jit, part, store, uncounted
from qafel_mpi.kernels.numba.moving import Motion, Norms, Stepping, move_and_subtract_near, put_squares
from qafel_mpi.kernels.numba.packing import add_levels, pack
from qafel_mpi.kernels.numba.rounding import draw, inverse_of, round_levels, sign_levels
from qafel_mpi.kernels.plan import SLOT, START
from qafel_mpi.kernels.reference import LINF, MEAN, SEGMENT, TINY

_NEAR = 1 << 12  # elements: four vectors of so many lie in the first-level cache, or nearly


@inlined
def _round_and_follow(
    v, total, x, m, x_hat, begin, end, slot, kind, s, bits, scale, k0, k1, hashes, draws, levels, factors, sums
):  # fmt: skip
    """The levels of v, and x̂ += their values."""
    unit, drop = unit_of(scale, s)
    factors[0] = unit
    done = 0
    if 2 <= bits < 8 and kind != MEAN and scale >= TINY:
        done = (end - begin) // (2 * simd.LANES) * (2 * simd.LANES)
        simd.round_follow(
            v, total, x, m, x_hat, begin, begin + done, x.size > _NEAR, np.uint32(k0), np.uint32(k1), slot,
            inverse_of(scale, s), factors, levels, sums,
        )  # fmt: skip
    if begin + done == end:
        return
    rest, more = part(v, done, end - begin), part(levels, done, end - begin)
    if kind == MEAN:
        sign_levels(rest, more)
    else:
        draw(k0, k1, slot + done, rest.size, hashes)
        round_levels(rest, scale, s, bits, draws, more)
    add_levels(more, ZERO, factors[0], drop, False, part(x_hat, begin + done, end))
    simd.stay(v, total, x, m, x_hat, begin + done, end, 0, sums)


@jit
def _step_range(
    motion, total, x, m, root, numbers, x_hat, table, first, last, together, kind, s, bits, k0, k1, scratch,
    levels, factors, payload, codes_at, sums, squares,
):  # fmt: skip
    """The server's step of groups first..last-1, of `together` segments each; of single plans.

    Returns a non-finite segment, or -1. squares[group]: as moving.norms_of has them.
    """
    hashes, draws = scratch[:VALUES_AT].view(np.uint32), scratch[:VALUES_AT].view(np.uint16)
    values, tree = scratch[VALUES_AT:SUMS_AT].view(np.float32), scratch[SUMS_AT:].view(np.float64)
    total, x, m, root, numbers = (
        uncounted(total),
        uncounted(x),
        uncounted(m),
        uncounted(root),
        uncounted(numbers),
    )
    x_hat, levels, factors = uncounted(x_hat), uncounted(levels), uncounted(factors)
    payload, sums = uncounted(payload), uncounted(sums)
    for group in range(first, last):
        for g in range(group * together, min((group + 1) * together, len(table) - 1)):
            begin, slot, end = table[g, START], table[g, SLOT], table[g + 1, START]
            v = part(values, 0, end - begin)
            top = move_and_subtract_near(motion, total, x, m, root, numbers, x_hat, begin, end, sums, v)
            if top >= INF_BITS:
                sums[:] = 0.0
                return g
            scale = scale_of(0.0 if kind == LINF else tree_sum(v, kind, tree), top, v.size, kind)
            store(payload, 4 * g, scale)
            _round_and_follow(
                v, total, x, m, x_hat, begin, end, slot, kind, s, bits, scale, k0, k1, hashes, draws, levels,
                factors, sums,
            )  # fmt: skip
            if v.size & 7:
                part(levels, v.size, v.size + 8)[:] = 0  # up to the next segment's slot
            pack(levels, table[g + 1, SLOT] - slot, bits, True, payload, codes_at + slot * bits // 8)
        put_squares(sums, squares, group)
    return -1


class BucketStep(Stepping):
    """The step of a server whose downlink has these kernels: of a single plan, of all that x has."""

    def __init__(self, kernels: BucketKernels, threads: int):
        self._kernels = kernels
        plan = kernels.plan
        self._together = max(1, SEGMENT // plan.largest_bucket)
        ends = plan.table[1:, START]
        super().__init__(np.append(ends[self._together - 1 : -1 : self._together], ends[-1]), threads)
        self._factors = {kind: np.empty((len(self.shares), 1), kind) for kind in (np.float32, np.float64)}

    def move_and_step(
        self, motion: Motion, x_hat: np.ndarray, payload: np.ndarray, key: int
    ) -> tuple[int, Norms]:
        """x moves; payload = Q(x − x̂); x̂ += decode(payload). Returns (a non-finite segment or -1, norms)."""
        k, k0, k1 = self._kernels, key & 0xFFFFFFFF, key >> 32
        factors = self._factors[x_hat.dtype.type]

        def call(i: int, first: int, last: int, sums: np.ndarray, squares: np.ndarray) -> int:
            return int(
                _step_range(
                    *motion, x_hat, k.table, first, last, self._together, k.kind, k.s, k.bits, k0, k1,
                    k.scratch[i], k.levels[i], factors[i], payload, k.codes_at, sums, squares,
                )
            )  # fmt: skip

        return self.step(call)
