"""What the kernels that rotate share: the passes of a Hadamard transform, and how their scratch is cut (helpers).

Up to the last three stages a transform goes through a block in passes of eight positions; those three are taken
together with what comes after them: the codes of an encoder, the sums of a decoder.
"""

from __future__ import annotations

from qafel_mpi.kernels.blocks import LANES
from qafel_mpi.kernels.numba import lanes as simd
from qafel_mpi.kernels.numba.jit import helper, part
from qafel_mpi.kernels.reference import SECOND

AGAIN = 2 * SECOND  # where the second rotation's signs begin, in positions
# Scratch of one thread, in bytes: sums; by the positions m of a block its values, integers, codes, signs.
NORMS, SUMS, SQUARES, INVERSES, VALUES = 0, 128, 192, 256, 320
PER_POSITION = 64 + 64 + 8 + 2 + 2


@helper
def passes(z, m):
    """A Hadamard transform of m positions but for its last three stages, largest stride first."""
    span = m
    extra = 0
    while m >> extra > 8:
        extra += 1
    if extra % 3 == 1:
        span >>= 1
        for q in range(span):
            simd.butterflies2(z, LANES * q, LANES * span)
    elif extra % 3 == 2:
        span >>= 2
        for q in range(span):
            simd.butterflies4(z, LANES * q, LANES * span)
    while span > 8:
        span >>= 3
        for base in range(0, m, 8 * span):
            for q in range(base, base + span):
                simd.butterflies8(z, LANES * q, LANES * span)


@helper
def spread_out(source, n, lanes, rows):
    """The last block's n elements to rows of LANES; zeros elsewhere. Nothing behind them is read."""
    whole = max(0, (n - LANES) // lanes + 1)
    for p in range(whole):
        simd.row(source, p * lanes, lanes, rows, LANES * p)
    part(rows, LANES * whole, rows.size)[:] = 0
    for p in range(whole, (n + lanes - 1) // lanes):
        for lane in range(min(lanes, n - p * lanes)):
            rows[LANES * p + lane] = source[p * lanes + lane]


@helper
def draw_in(rows, n, lanes, out, at):
    """n elements from `at` on of out, from rows of LANES: spread_out's inverse. out may be rows, with at = 0."""
    whole = max(0, (n - LANES) // lanes + 1)
    for p in range(whole):  # what a row has too much, the next one writes over
        simd.copy(rows, LANES * p, out, at + p * lanes)
    for p in range(whole, (n + lanes - 1) // lanes):
        for lane in range(min(lanes, n - p * lanes)):
            out[at + p * lanes + lane] = rows[LANES * p + lane]
