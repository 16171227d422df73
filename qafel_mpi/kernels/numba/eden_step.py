"""The server's step with eden: x moves, x − x̂ is encoded and x̂ follows, a block at a time, in the cache."""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.blocks import LANES
from qafel_mpi.kernels.numba import moving_lanes as simd
from qafel_mpi.kernels.numba.buckets import INF_BITS
from qafel_mpi.kernels.numba.eden_decode import decode_range
from qafel_mpi.kernels.numba.eden_encode import encode_block, room_of
from qafel_mpi.kernels.numba.jit import jit, uncounted
from qafel_mpi.kernels.numba.moving import move_and_subtract, put_squares


@jit
def step_range(
    motion, total, x, m, root, numbers, x_hat, pieces, d, bucket, whole, last_m, lanes, first, last, bits,
    rotations, least, most, last_most, narrow, k0, k1, scratch, factors, values, payload, codes_at, sums, squares,
):  # fmt: skip
    """The server's step of blocks first..last-1. A block that is not finite, or -1.

    squares[block]: as moving.norms_of has them.
    """
    one, lane_scales = x_hat.dtype.type(1), np.empty(LANES, np.float32)
    total, x, m, root, numbers = (
        uncounted(total),
        uncounted(x),
        uncounted(m),
        uncounted(root),
        uncounted(numbers),
    )
    x_hat, scratch, factors, sums = uncounted(x_hat), uncounted(scratch), uncounted(factors), uncounted(sums)
    for k in range(first, last):
        full = k < whole
        begin, end = LANES * bucket * k, LANES * bucket * (k + 1) if full else d
        rows, flat = room_of(scratch, bucket if full else last_m, full, end - begin)
        top = move_and_subtract(motion, total, x, m, root, numbers, x_hat, begin, end, sums, flat)
        if top >= INF_BITS:
            sums[:] = 0.0
            return k
        encode_block(
            rows, 0, flat, top, k, d, bucket, whole, last_m, lanes, bits, rotations, least, most, last_most, k0, k1,
            scratch, lane_scales, payload, codes_at, x,
        )  # fmt: skip
        decode_range(
            payload, pieces, d, bucket, whole, last_m, lanes, k, k + 1, bits, rotations, narrow, one, False, k0, k1,
            scratch, factors, values, codes_at, x_hat,
        )  # fmt: skip
        simd.stay(x, x, x, x, x_hat, begin, end, 0, sums)
        put_squares(sums, squares, k)
    return -1
