"""The server's step as plain numpy formulas: reference.py's companion for kernels.numba.moving.

All in the vectors' type, float32 or float64, with one rounding an operation; `fma` is one operation.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def fma(a: np.ndarray, b: np.ndarray | float, c: np.ndarray) -> np.ndarray:
    """a · b + c with one rounding, element by element, of finite numbers; b is rounded to their type first."""
    kind = c.dtype.type
    products = zip(
        a.tolist(), np.broadcast_to(np.asarray(b, c.dtype), a.shape).tolist(), c.tolist(), strict=True
    )
    return np.array(
        [_rounded(Fraction(x) * Fraction(y) + Fraction(z), kind) for x, y, z in products], c.dtype
    )


def _rounded(value: Fraction, kind: type) -> np.floating:
    """The nearest number of a type, ties to even."""
    near = kind(float(value))  # rounded twice where the type is float32: perhaps its neighbour is nearer
    around = [near, np.nextafter(near, kind(-np.inf)), np.nextafter(near, kind(np.inf))]
    odd = near.view(np.int32 if kind is np.float32 else np.int64) & 1
    return min(around, key=lambda one: (abs(Fraction(float(one)) - value), bool(odd) == (one is near)))


def mean(total: np.ndarray, factor: float) -> np.ndarray:
    """g: the buffer's sum times the factor. A sum of −0 counts as 0."""
    return (total + total.dtype.type(0)) * total.dtype.type(factor)


def move_sgd(x: np.ndarray, g: np.ndarray, rate: float) -> np.ndarray:
    """x + η g."""
    return fma(g, rate, x)


def move_momentum(
    x: np.ndarray, g: np.ndarray, m: np.ndarray, beta: float, rate: float, *, nesterov: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(x, m): m ← β m + g; x + η m, or with Nesterov's x + η (g + β m)."""
    m = m * m.dtype.type(beta) + g
    return fma(fma(m, beta, g) if nesterov else m, rate, x), m


def moments(
    g: np.ndarray, m: np.ndarray, v: np.ndarray, beta1: float, beta2: float
) -> tuple[np.ndarray, np.ndarray]:
    """(m, v) of Adam: β1 m + (1 − β1) g, β2 v + (1 − β2) g²."""
    kind = m.dtype.type
    return fma(g, 1 - beta1, m * kind(beta1)), fma(kind(1 - beta2) * g, g, v * kind(beta2))


def move_adam(x: np.ndarray, m: np.ndarray, root: np.ndarray, epsilon: float, rate: float) -> np.ndarray:
    """x + η m / (√v + ε). root: √v."""
    kind = x.dtype.type
    return x + kind(rate) * m / (root + kind(epsilon))
