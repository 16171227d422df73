"""What a server optimizer does to x, in one pass over the vectors; reference_step.py says what is computed.

A codec's kernels call `move` for a piece of the vectors that lies in the cache, and go on with that piece: `Motion`
is what it needs. `norms_of` adds up what each piece has left of the three norms of a step. The server's vectors lie
on the CPU: there is no such kernel for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from qafel_mpi.kernels.aligned import aligned_bytes
from qafel_mpi.kernels.numba import moving_lanes as simd
from qafel_mpi.kernels.numba.jit import fma, helper, inlined, jit, part
from qafel_mpi.kernels.numba.moving_lanes import (
    DIFFERENCE,
    GAP,
    LANES,
    MOMENTUM,
    NESTEROV,
    SGD,
    STEP,
    SUMS,
)
from qafel_mpi.kernels.plan import segment_ends, shares, spread
from qafel_mpi.kernels.reference import SEGMENT


class Motion(NamedTuple):
    """A server optimizer's step of x, which kernels make piece by piece.

    total: (d,); its mean is (total + ZERO) · FACTOR. x: (d,), and m, too, where the kind has one; root: √v of ADAM.
    All are of one type. numbers: (5,), of that type: ZERO is 0, which makes 0 of a sum that is −0, or −0, which
    changes nothing.
    """

    kind: int
    total: np.ndarray
    x: np.ndarray
    m: np.ndarray
    root: np.ndarray
    numbers: np.ndarray


def still(x: np.ndarray) -> Motion:
    """The motion that leaves x, (d,), where it is."""
    nothing = np.empty(0, dtype=x.dtype)
    return Motion(SGD, np.zeros_like(x), x, nothing, nothing, np.zeros(5, dtype=x.dtype))


class Norms(NamedTuple):
    """Of a server step, summed in float64."""

    step: float  # ‖x^{t+1} − x^t‖₂
    difference: float  # of what was encoded
    gap: float  # ‖x^{t+1} − x̂^{t+1}‖₂


class OnePass(Protocol):
    """Kernels of a server step in one pass over the vectors."""

    def move_and_step(
        self, motion: Motion, x_hat: np.ndarray, payload: np.ndarray, key: int
    ) -> tuple[int, Norms]:
        """x moves, the payload is written, x̂ follows. Returns (-1, or where something is not finite a part of the
        vector from which on x̂ has not followed, the norms)."""


@helper
def move(kind, total, x, m, root, numbers, first, last, sums):
    """Elements first..last-1 of a Motion. sums: of the piece that they are in; see moving_lanes."""
    if kind == SGD:
        simd.move_sgd(total, x, m, root, numbers, first, last, sums)
    elif kind == MOMENTUM:
        simd.move_momentum(total, x, m, root, numbers, first, last, sums)
    elif kind == NESTEROV:
        simd.move_nesterov(total, x, m, root, numbers, first, last, sums)
    else:
        simd.move_adam(total, x, m, root, numbers, first, last, sums)


@inlined
def move_and_subtract(kind, total, x, m, root, numbers, x_hat, first, last, sums, values):
    """`move`, and values = x − x̂, rounded to their type. Returns the largest magnitude's bit pattern among them."""
    if kind == SGD:
        return simd.subtract_sgd(total, x, m, root, numbers, x_hat, first, last, sums, values)
    if kind == MOMENTUM:
        return simd.subtract_momentum(total, x, m, root, numbers, x_hat, first, last, sums, values)
    if kind == NESTEROV:
        return simd.subtract_nesterov(total, x, m, root, numbers, x_hat, first, last, sums, values)
    return simd.subtract_adam(total, x, m, root, numbers, x_hat, first, last, sums, values)


@inlined
def move_and_subtract_near(kind, total, x, m, root, numbers, x_hat, first, last, sums, values):
    """move_and_subtract of values that are read again soon: they lie in the first-level cache, on its lines."""
    if kind == SGD:
        return simd.again_sgd(total, x, m, root, numbers, x_hat, first, last, sums, values)
    if kind == MOMENTUM:
        return simd.again_momentum(total, x, m, root, numbers, x_hat, first, last, sums, values)
    if kind == NESTEROV:
        return simd.again_nesterov(total, x, m, root, numbers, x_hat, first, last, sums, values)
    return simd.again_adam(total, x, m, root, numbers, x_hat, first, last, sums, values)


@inlined
def move_and_copy(kind, total, x, m, root, numbers, first, last, sums, values):
    """`move`, and values = x, rounded to their type. Returns the largest magnitude's bit pattern among them."""
    if kind == SGD:
        return simd.copy_sgd(total, x, m, root, numbers, x, first, last, sums, values)
    if kind == MOMENTUM:
        return simd.copy_momentum(total, x, m, root, numbers, x, first, last, sums, values)
    if kind == NESTEROV:
        return simd.copy_nesterov(total, x, m, root, numbers, x, first, last, sums, values)
    return simd.copy_adam(total, x, m, root, numbers, x, first, last, sums, values)


@helper
def put_squares(sums, squares, k):
    """Row k of the squares from the sums of its piece, which are 0 again."""
    for row in range(3):
        total = 0.0
        for lane in range(LANES):
            total += sums[LANES * row + lane]
        squares[k, row] = total
    sums[:] = 0.0


@jit
def norms_of(squares):
    """The roots of the sums of the columns of squares, (pieces, 3), one piece after the other."""
    step = difference = gap = 0.0
    for k in range(len(squares)):
        step += squares[k, STEP]
        difference += squares[k, DIFFERENCE]
        gap += squares[k, GAP]
    return np.sqrt(step), np.sqrt(difference), np.sqrt(gap)


@jit
def _move_range(kind, total, x, m, root, numbers, first, last, sums, squares):
    for k in range(first, last):
        begin, end = SEGMENT * k, min(SEGMENT * (k + 1), x.size)
        move(kind, total, x, m, root, numbers, begin, end, sums)
        put_squares(sums, squares, k)
    return -1


@jit
def _moments_range(total, m, v, largest, zero, factor, beta1, beta2, first, last):
    """Adam's m and v, and with AMSGrad the largest v so far, which is empty otherwise."""
    kind = m.dtype.type
    rest1, rest2, beta1, beta2 = kind(1 - beta1), kind(1 - beta2), kind(beta1), kind(beta2)
    zero, factor = kind(zero), kind(factor)
    for k in range(first, last):
        begin, end = SEGMENT * k, min(SEGMENT * (k + 1), m.size)
        g_, m_, v_ = part(total, begin, end), part(m, begin, end), part(v, begin, end)
        for i in range(m_.size):
            g = (g_[i] + zero) * factor
            m_[i] = fma(g, rest1, m_[i] * beta1)
            v_[i] = fma(rest2 * g, g, v_[i] * beta2)
        if largest.size:
            top = part(largest, begin, end)
            for i in range(top.size):
                top[i] = max(top[i], v_[i])
    return -1


class Stepping:
    """A step's way through the vectors: which pieces are whose thread's, and what each leaves of the norms."""

    def __init__(self, ends: np.ndarray, threads: int):
        """ends: (pieces,) elements up to and with each piece."""
        self.shares = shares(ends, threads)
        self._squares = np.zeros((len(ends), 3))
        self._sums = [aligned_bytes(8 * SUMS).view(np.float64) for _ in self.shares]
        for sums in self._sums:
            sums[:] = 0.0

    def step(self, call: Callable[..., int]) -> tuple[int, Norms]:
        """call(share, first, last, sums, squares) of each share. Returns (the largest result, the norms)."""

        if len(self.shares) == 1:  # two calls fewer: in a step of 30,000 elements one sees them
            result = call(0, *self.shares[0], self._sums[0], self._squares)
        else:
            result = spread(
                lambda i, first, last: call(i, first, last, self._sums[i], self._squares), self.shares
            )
        return result, Norms(*norms_of(self._squares))


class Mover(Stepping):
    """Motions of one length as passes of their own, for the codecs that take none into theirs."""

    def __init__(self, d: int, threads: int):
        super().__init__(segment_ends(d), threads)

    def move(self, motion: Motion) -> float:
        """Move x. Returns ‖x' − x‖₂."""
        _, norms = self.step(
            lambda i, first, last, sums, squares: _move_range(*motion, first, last, sums, squares)
        )
        return norms.step

    def moments(
        self,
        total: np.ndarray,
        m: np.ndarray,
        v: np.ndarray,
        largest: np.ndarray,
        *,
        zero: float,
        factor: float,
        betas: tuple[float, float],
    ) -> None:
        """reference_step.moments in place, and largest = max(largest, v) unless it is empty."""
        spread(
            lambda i, first, last: _moments_range(total, m, v, largest, zero, factor, *betas, first, last),
            self.shares,
        )
