"""Local training of the logistic regression, in numba.

With b_i = ±a_i (example times label), a client's objective is f(y) = (1/n) Σ log(1 + exp(−b_i·y)) + (λ/2)‖y‖².
All functions work in place, on float64. The sums that LLVM may reorder are marked so; a given machine type gives
the same bits for a client whatever else is in the call.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Sums in vector registers: in any order, but the same one in every call.
_SUMS = {"reassoc", "contract", "nsz"}
LANES = 8  # Gram rows are padded to whole vectors

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # their sum is ln 2 (fdlibm)
_ROUND = 6755399441055744.0  # 1.5·2^52: adding it rounds to an integer, kept in the low bits of the sum
_LEAST = -700.0  # exp of it is a normal number


@njit(cache=True, nogil=True, fastmath={"contract"})
def exp_minus_abs(z, out, scratch):
    """out = exp(−|z|) to 2 units in the last place, in loops that vectorise, which calls of libm do not.

    exp(v) = 2^k·exp(r), k = rint(v / ln 2), |r| <= ln 2 / 2: Taylor's polynomial of degree 12 (remainder 2e-16),
    and k added to its exponent bits. |z| above 700 counts as 700.
    """
    for i in range(z.size):
        v = max(-abs(z[i]), _LEAST)
        rounded = v * _LOG2_E + _ROUND
        scratch[i] = rounded
        k = rounded - _ROUND
        r = (v - k * _LN2_HIGH) - k * _LN2_LOW
        p = 1 / 479001600 * r + 1 / 39916800
        p = p * r + 1 / 3628800
        p = p * r + 1 / 362880
        p = p * r + 1 / 40320
        p = p * r + 1 / 5040
        p = p * r + 1 / 720
        p = p * r + 1 / 120
        p = p * r + 1 / 24
        p = p * r + 1 / 6
        p = p * r + 0.5
        p = p * r + 1.0
        out[i] = p * r + 1.0
    bits, k_bits = out.view(np.int64), scratch.view(np.int64)
    for i in range(z.size):
        bits[i] += k_bits[i] << 52


@njit(cache=True, nogil=True, fastmath=_SUMS)
def margins(rows, y, z):
    """z = rows · y. rows: (n, d); y: (d,); z: at least (n,)."""
    for i in range(rows.shape[0]):
        row, total = rows[i], 0.0
        for j in range(y.size):
            total += row[j] * y[j]
        z[i] = total


@njit(cache=True, nogil=True, fastmath=_SUMS)
def add_rows(rows, weights, out):
    """out += Σ_i weights_i · rows_i, four rows a pass, so that out is loaded and stored a quarter as often."""
    n, i = rows.shape[0], 0
    while i + 4 <= n:
        w0, w1, w2, w3 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        r0, r1, r2, r3 = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
        for j in range(out.size):
            out[j] += w0 * r0[j] + w1 * r1[j] + w2 * r2[j] + w3 * r3[j]
        i += 4
    while i < n:
        weight, row = weights[i], rows[i]
        for j in range(out.size):
            out[j] += weight * row[j]
        i += 1


@njit(cache=True, nogil=True, fastmath=_SUMS)
def pulls(z, e, pull, s, n):
    """s_i = pull · σ(−z_i); returns Σ_i log(1 + exp(−z_i)). e = exp(−|z|). Over the first n."""
    total = 0.0
    for first in range(0, n, 512):
        # One logarithm for a product of up to 512 factors between 1 and 2.
        product, hinge = 1.0, 0.0
        for i in range(first, min(first + 512, n)):
            product *= 1.0 + e[i]
            hinge += max(-z[i], 0.0)
            q = pull / (1.0 + e[i])
            s[i] = q if z[i] < 0.0 else q * e[i]
        total += hinge + np.log(product)
    return total


@njit(cache=True, nogil=True, fastmath=_SUMS)
def dot(a, b):
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@njit(cache=True, nogil=True)
def padded(n):
    return (n + LANES - 1) // LANES * LANES


@njit(cache=True, nogil=True)
def gram_matrices(b, offsets, clients, gram, gram_at):
    """Fill every client's G = B Bᵀ, (n, padded(n)); one with gram_at[c] = gram_at[c + 1] gets none."""
    for c in range(clients):
        if gram_at[c] == gram_at[c + 1]:
            continue
        rows = b[offsets[c] : offsets[c + 1]]
        n = rows.shape[0]
        g = gram[gram_at[c] : gram_at[c + 1]].reshape(n, padded(n))
        for i in range(n):
            margins(rows, rows[i], g[i])


@njit(cache=True, nogil=True, fastmath=_SUMS)
def train_on_gram(rows, gram, start, start_squared, rate, l2, decay, steps, delta, work):
    """P full-batch steps in the space of the margins z = B y; returns the mean of f(y_0), ..., f(y_{P−1}).

    y_{p+1} = a·y_p + (η/n) Bᵀσ(−z_p), a = 1 − η·decay, so y_p = a^p·y_0 + Bᵀc_p and z_{p+1} = a·z_p + (η/n) Gσ(−z_p):
    a step costs n² products in place of 2·n·d, and ‖y_p‖² = a^2p·‖y_0‖² + c·(z_p + a^p·z_0).
    work: (6, at least padded(n)), zero from n on.
    """
    n, width = gram.shape
    z_0, z, c = work[0, :width], work[1, :width], work[2, :width]
    s, e, scratch = work[3, :width], work[4, :width], work[5, :width]
    margins(rows, start, z_0)
    z[:] = z_0
    c[:] = 0.0
    a, power, total = 1.0 - rate * decay, 1.0, 0.0
    for p in range(steps):
        exp_minus_abs(z, e, scratch)
        total += pulls(z, e, rate / n, s, n) / n
        inner = 0.0
        for i in range(n):
            inner += c[i] * (z[i] + power * z_0[i])
            c[i] = a * c[i] + s[i]
            z[i] *= a
        total += 0.5 * l2 * (power * power * start_squared + inner)
        power *= a
        if p + 1 < steps:
            add_rows(gram, s, z)
    for j in range(start.size):
        delta[j] = (power - 1.0) * start[j]
    add_rows(rows, c, delta)
    return total / steps


@njit(cache=True, nogil=True)
def train_clients(b, offsets, gram, gram_at, clients, start, rate, l2, decay, steps, deltas, losses):
    """train_on_gram of each of the clients. deltas: (len(clients), d); losses: (len(clients),)."""
    widest = 0
    for c in clients:
        widest = max(widest, offsets[c + 1] - offsets[c])
    work = np.zeros((6, padded(widest)))
    start_squared = dot(start, start)
    for k in range(clients.size):
        c = clients[k]
        rows = b[offsets[c] : offsets[c + 1]]
        n = rows.shape[0]
        work[:, n : padded(n)] = 0.0
        g = gram[gram_at[c] : gram_at[c + 1]].reshape(n, padded(n))
        losses[k] = train_on_gram(rows, g, start, start_squared, rate, l2, decay, steps, deltas[k], work)


@njit(cache=True, nogil=True)
def gradient(rows, y, l2, out, z, e, s):
    """out = ∇f(y); returns f(y). z, e, s: at least (n,)."""
    n = rows.shape[0]
    margins(rows, y, z)
    exp_minus_abs(z[:n], e[:n], s[:n])
    loss = pulls(z, e, -1.0 / n, s, n) / n
    for j in range(y.size):
        out[j] = l2 * y[j]
    add_rows(rows, s, out)
    return loss + 0.5 * l2 * dot(y, y)
