"""Local training of the logistic regression, in numba.

With b_i = ±a_i (example times label), a client's objective is f(y) = (1/n) Σ log(1 + exp(−b_i·y)) + (λ/2)‖y‖².
All functions work in place, on float64. The sums that LLVM may reorder are marked so; a given machine type gives
the same bits for a client whatever else is in the call.
"""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.numba.jit import jit

# Sums in vector registers: in any order, but the same one in every call.
_SUMS = {"reassoc", "contract", "nsz"}
# numba's own divisions: with numpy's, which vectorise, `pulls` sums in another order, and results have other bits.
_kernel = jit(error_model="python")
LANES = 8  # rows are padded to whole vectors

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # their sum is ln 2 (fdlibm)
_ROUND = 6755399441055744.0  # 1.5·2^52: adding it rounds to an integer, kept in the low bits of the sum
_LEAST = -700.0  # exp of it is a normal number


@_kernel(fastmath={"contract"})
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


@_kernel(fastmath=_SUMS)
def dot(a, b):
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@_kernel(fastmath=_SUMS)
def dot_rows(rows, x, out):
    """out_i = rows_i · x, four rows a pass, so that their sums don't wait for each other. out: at least (n,)."""
    n, i = rows.shape[0], 0
    while i + 4 <= n:
        r0, r1, r2, r3 = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
        t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
        for j in range(x.size):
            t0 += r0[j] * x[j]
            t1 += r1[j] * x[j]
            t2 += r2[j] * x[j]
            t3 += r3[j] * x[j]
        out[i], out[i + 1], out[i + 2], out[i + 3] = t0, t1, t2, t3
        i += 4
    while i < n:
        out[i] = dot(rows[i], x)
        i += 1


@_kernel(fastmath=_SUMS)
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


@_kernel(fastmath=_SUMS)
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


@_kernel
def padded(n):
    """Length of a row of n, filled up to whole vectors; a short one stays as it is."""
    return n if n < LANES else (n + LANES - 1) // LANES * LANES


@_kernel
def find_span(rows, basis, columns):
    """An orthonormal basis of what the rows span: rows = columnsᵀ · basis. Returns the rank r.

    rows: (n, d). Filled: basis (at least r, d), columns (at least r, padded(n)), which come as zeros. Gram and
    Schmidt, each projection done twice; what is left of a row below 1e-12 of it is rounding.
    """
    r, rest = 0, np.empty(rows.shape[1])
    for i in range(rows.shape[0]):
        rest[:] = rows[i]
        length = np.sqrt(dot(rest, rest))
        for _ in range(2):
            for k in range(r):
                c = dot(basis[k], rest)
                columns[k, i] += c
                for j in range(rest.size):
                    rest[j] -= c * basis[k, j]
        left = np.sqrt(dot(rest, rest))
        if left > 1e-12 * length:
            columns[r, i] = left
            basis[r] = rest / left
            r += 1
    return r


@_kernel
def find_spans(b, offsets, wanted, bases, basis_at, columns, columns_at):
    """find_span of every wanted client, one after the other in `bases` and `columns`; both as zeros.

    basis_at, columns_at: (clients + 1,), filled with the offsets; a client that isn't wanted takes no room.
    """
    d = b.shape[1]
    for c in range(wanted.size):
        r, n = 0, offsets[c + 1] - offsets[c]
        if wanted[c]:
            most, width = min(n, d), padded(n)
            basis = bases[basis_at[c] : basis_at[c] + most * d].reshape(most, d)
            column = columns[columns_at[c] : columns_at[c] + most * width].reshape(most, width)
            r = find_span(b[offsets[c] : offsets[c + 1]], basis, column)
        basis_at[c + 1] = basis_at[c] + r * d
        columns_at[c + 1] = columns_at[c] + r * padded(n)


@_kernel(fastmath=_SUMS)
def train_in_span(columns, basis, n, start, start_squared, rate, l2, decay, steps, delta, work):
    """P full-batch steps in the r dimensions that the n examples span; returns the mean of f(y_0), ..., f(y_{P−1}).

    With B = Uᵀ R, R of orthonormal rows, and w = R y: z = B y = Uᵀ w, and y ← a·y + (η/n) Bᵀσ(−z), a = 1 − η·decay,
    is w ← a·w + (η/n) U σ(−z) within the span and y ← a·y outside. So a step costs 2·n·r products, not 2·n·d, and
    ‖y_p‖² = a^2p·(‖y_0‖² − ‖w_0‖²) + ‖w_p‖². columns: U, (r, padded(n)); basis: R, (r, d);
    work: (7, at least padded(n)), zero from n on.
    """
    r, width = columns.shape
    z, s, e, scratch = work[0, :width], work[1, :width], work[2, :width], work[3, :width]
    w_0, w, pull = work[4, :r], work[5, :r], work[6, :r]
    dot_rows(basis, start, w_0)
    w[:] = w_0
    outside = start_squared - dot(w_0, w_0)
    a, power, total = 1.0 - rate * decay, 1.0, 0.0
    for _ in range(steps):
        z[:] = 0.0
        add_rows(columns, w, z)
        exp_minus_abs(z, e, scratch)
        total += pulls(z, e, rate / n, s, n) / n
        total += 0.5 * l2 * (power * power * outside + dot(w, w))
        dot_rows(columns, s, pull)
        power *= a
        for k in range(r):
            w[k] = a * w[k] + pull[k]
    for k in range(r):
        w[k] -= power * w_0[k]
    for j in range(start.size):
        delta[j] = (power - 1.0) * start[j]
    add_rows(basis, w, delta)
    return total / steps


@_kernel
def train_clients(
    offsets, bases, basis_at, columns, columns_at, clients, start, rate, l2, decay, steps, deltas, losses
):
    """train_in_span of each of the clients. deltas: (len(clients), d); losses: (len(clients),)."""
    widest, d = 0, start.size
    for c in clients:
        widest = max(widest, offsets[c + 1] - offsets[c])
    work = np.zeros((7, padded(widest)))
    start_squared = dot(start, start)
    for i in range(clients.size):
        c = clients[i]
        n = offsets[c + 1] - offsets[c]
        r, width = (basis_at[c + 1] - basis_at[c]) // d, padded(n)
        work[:, n:width] = 0.0
        losses[i] = train_in_span(
            columns[columns_at[c] : columns_at[c + 1]].reshape(r, width),
            bases[basis_at[c] : basis_at[c + 1]].reshape(r, d),
            n,
            start,
            start_squared,
            rate,
            l2,
            decay,
            steps,
            deltas[i],
            work,
        )


@_kernel
def gradient(rows, y, l2, out, z, e, s):
    """out = ∇f(y); returns f(y). z, e, s: at least (n,)."""
    n = rows.shape[0]
    dot_rows(rows, y, z)
    exp_minus_abs(z[:n], e[:n], s[:n])
    loss = pulls(z, e, -1.0 / n, s, n) / n
    for j in range(y.size):
        out[j] = l2 * y[j]
    add_rows(rows, s, out)
    return loss + 0.5 * l2 * dot(y, y)
