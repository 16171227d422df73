"""The server's step with eden: x moves, x − x̂ is encoded and x̂ follows, a block at a time, in the cache."""

from __future__ import annotations

from qafel_mpi.kernels.blocks import LANES
from qafel_mpi.kernels.numba.eden_decode import decode_range
from qafel_mpi.kernels.numba.eden_encode import encode_range
from qafel_mpi.kernels.numba.jit import jit, part
from qafel_mpi.kernels.numba.moving import DIFFERENCE, GAP, STEP, distance2, move


@jit
def step_range(
    motion, total, x, m, root, numbers, x_hat, pieces, d, bucket, whole, last_m, lanes, first, last, bits,
    rotations, least, most, last_most, narrow, k0, k1, scratch, factors, values, payload, codes_at, squares,
):  # fmt: skip
    """The server's step of blocks first..last-1. A block that is not finite, or -1.

    squares[block]: as moving.norms_of has them.
    """
    one = x_hat.dtype.type(1)
    for k in range(first, last):
        begin, end = LANES * bucket * k, d if k >= whole else LANES * bucket * (k + 1)
        squares[k, STEP] = move(motion, total, x, m, root, numbers, begin, end)
        squares[k, DIFFERENCE] = distance2(part(x, begin, end), part(x_hat, begin, end))
        bad = encode_range(
            x, x_hat, True, pieces, d, bucket, whole, last_m, lanes, k, k + 1, bits, rotations, least, most,
            last_most, k0, k1, scratch, payload, codes_at,
        )  # fmt: skip
        if bad >= 0:
            return bad
        decode_range(
            payload, pieces, d, bucket, whole, last_m, lanes, k, k + 1, bits, rotations, narrow, one, False, k0, k1,
            scratch, factors, values, codes_at, x_hat,
        )  # fmt: skip
        squares[k, GAP] = distance2(part(x, begin, end), part(x_hat, begin, end))
    return -1
