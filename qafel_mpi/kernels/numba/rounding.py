"""Random numbers, and stochastic rounding of a bucket's values to levels (numba helpers).

reference.py says what is computed; here a segment at a time, in loops that LLVM vectorises.
"""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.numba.jit import add32, helper, mul32, nearest
from qafel_mpi.kernels.reference import LIFT, MIX1, MIX2, TINY, WEYL

_WEYL, _MIX1, _MIX2 = np.uint32(WEYL), np.uint32(MIX1), np.uint32(MIX2)
_15, _16 = np.uint32(15), np.uint32(16)
_ONE = np.float32(1)


@helper
def _mix(state, k1):
    """reference.hash32 from its Weyl sequence on."""
    h = np.uint32(state ^ k1)
    h = mul32(np.uint32(h ^ (h >> _16)), _MIX1)
    h = mul32(np.uint32(h ^ (h >> _15)), _MIX2)
    return np.uint32(h ^ (h >> _16))


@helper
def _weyl(k0, slot):
    """The Weyl sequence at a slot, which is even. Its next value is this one + WEYL: carrying it from pair to
    pair keeps LLVM in 32 bits, where a product with the loop's counter would not."""
    return add32(np.uint32(k0), mul32(np.uint32(slot >> 1), _WEYL))


@helper
def draw(k0, k1, slot, n, hashes):
    """The hashes of n slots from `slot`, two slots each. Read as uint16 they are the draws of the slots."""
    state, k1 = _weyl(k0, slot), np.uint32(k1)
    for p in range((n + 1) >> 1):
        hashes[p] = _mix(state, k1)
        state = add32(state, _WEYL)


@helper
def inverse_of(scale, s):
    """What makes a level's part of 2^16 of a value: a scale that is not tiny, or was lifted."""
    return np.float32(np.float32(s * 65536) / np.float32(scale))


@helper
def round_levels(v, scale, s, bits, draws, levels):
    """levels = stochastic rounding of s·v/scale; one bit: ±1. Overwrites v where its values are tiny."""
    if scale == 0:
        levels[: v.size] = 1 if bits == 1 else 0
        return
    lift = _ONE
    if scale < TINY:
        lift = LIFT
        for i in range(v.size):
            v[i] *= LIFT
    inverse = inverse_of(scale * lift, s)
    if bits == 1:
        for i in range(v.size):
            y = nearest(np.float32(v[i] * inverse))
            minus = np.int32(2 * np.int32(draws[i]) + 1) > np.int32(y + 65536)
            levels[i] = -1 if minus else 1
    elif bits < 8:
        # |v| <= scale, so that v·inverse passes the limit by less than a half: rint needs no clamp.
        for i in range(v.size):
            y = nearest(np.float32(v[i] * inverse))
            levels[i] = np.int32(y + np.int32(draws[i])) >> np.int32(16)
    else:
        limit = np.float32(s * 65536)
        for i in range(v.size):
            y = np.float32(v[i] * inverse)
            y = limit if y > limit else y
            y = -limit if y < -limit else y
            levels[i] = np.int32(nearest(y) + np.int32(draws[i])) >> np.int32(16)


@helper
def sign_levels(v, levels):
    """−1 where v < 0, else 1."""
    for i in range(v.size):
        levels[i] = -1 if v[i] < 0 else 1
