"""What a server optimizer does to x, in one pass over the vectors; reference_step.py says what is computed.

A codec's kernels call `move` for a piece of the vectors that lies in the cache, and go on with that piece: `Motion`
is what it needs. `norms_of` adds up what each piece has left of the three norms of a step. The server's vectors lie
on the CPU: there is no such kernel for a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qafel_mpi.kernels.numba.jit import fma, helper, jit, njit, part
from qafel_mpi.kernels.plan import segment_ends, shares, spread
from qafel_mpi.kernels.reference import SEGMENT

SGD, MOMENTUM, NESTEROV, ADAM = range(4)
ZERO, FACTOR, BETA, RATE, EPSILON = range(5)  # of Motion.numbers
STEP, DIFFERENCE, GAP = range(3)  # columns of the squares: ‖x' − x‖², ‖x' − x̂‖² and ‖x' − x̂'‖²


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


# Vector registers hold parts of the sum: in another order than on other processors, but always the same one here.
@njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, fastmath={"reassoc", "contract", "nsz"})
def plus_square(total, a, b):
    """total + (a − b)²."""
    difference = np.float64(a) - np.float64(b)
    return total + difference * difference


@helper
def distance2(a, b):
    """‖a − b‖²."""
    total = 0.0
    for i in range(a.size):
        total = plus_square(total, a[i], b[i])
    return total


@helper
def norm2(a):
    """‖a‖²."""
    total = 0.0
    for i in range(a.size):
        total = plus_square(total, a[i], 0.0)
    return total


@helper
def _sgd(total, x, zero, factor, rate):
    moved = 0.0
    for i in range(x.size):
        old = x[i]
        new = fma((total[i] + zero) * factor, rate, old)
        x[i] = new
        moved = plus_square(moved, new, old)
    return moved


@helper
def _momentum(total, x, m, zero, factor, beta, rate):
    moved = 0.0
    for i in range(x.size):
        old, v = x[i], m[i] * beta + (total[i] + zero) * factor
        new = fma(v, rate, old)
        m[i], x[i] = v, new
        moved = plus_square(moved, new, old)
    return moved


@helper
def _nesterov(total, x, m, zero, factor, beta, rate):
    moved = 0.0
    for i in range(x.size):
        old, g = x[i], (total[i] + zero) * factor
        v = m[i] * beta + g
        new = fma(fma(v, beta, g), rate, old)
        m[i], x[i] = v, new
        moved = plus_square(moved, new, old)
    return moved


@helper
def _adam(x, m, root, rate, epsilon):
    moved = 0.0
    for i in range(x.size):
        old = x[i]
        new = old + rate * m[i] / (root[i] + epsilon)
        x[i] = new
        moved = plus_square(moved, new, old)
    return moved


@helper
def move(kind, total, x, m, root, numbers, first, last):
    """Elements first..last-1 of a Motion. Returns ‖x' − x‖² of them."""
    zero, factor, beta, rate = numbers[ZERO], numbers[FACTOR], numbers[BETA], numbers[RATE]
    here = part(x, first, last)
    if kind == ADAM:
        return _adam(here, part(m, first, last), part(root, first, last), rate, numbers[EPSILON])
    g = part(total, first, last)
    if kind == SGD:
        return _sgd(g, here, zero, factor, rate)
    if kind == MOMENTUM:
        return _momentum(g, here, part(m, first, last), zero, factor, beta, rate)
    return _nesterov(g, here, part(m, first, last), zero, factor, beta, rate)


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
def _move_range(kind, total, x, m, root, numbers, first, last, squares):
    for k in range(first, last):
        begin, end = SEGMENT * k, min(SEGMENT * (k + 1), x.size)
        squares[k, STEP] = move(kind, total, x, m, root, numbers, begin, end)
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


class Mover:
    """Motions of one length as passes of their own, for the codecs that take none into theirs."""

    def __init__(self, d: int, threads: int):
        ends = segment_ends(d)
        self._shares = shares(ends, threads)
        self._squares = np.zeros((len(ends), 3))

    def move(self, motion: Motion) -> float:
        """Move x. Returns ‖x' − x‖₂."""
        spread(lambda i, first, last: _move_range(*motion, first, last, self._squares), self._shares)
        return float(norms_of(self._squares)[STEP])

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
            self._shares,
        )
