"""Local SGD of a multi-layer perceptron with one hidden layer, in numba.

f(W, b, V, c) is the mean cross-entropy of softmax(V·relu(W·x + b) + c). The weights of a client lie in one row, in
the order of the module's flat vector: W (hidden, features), b, V (classes, hidden), c. All in the type of the
weights, float32 or float64. The sums that LLVM may reorder are marked so; a given machine type gives the same bits
for a client whatever else is in the call.
"""

from __future__ import annotations

import math

import numpy as np

from qafel_mpi.kernels.numba.jit import helper, jit

# Sums in vector registers: in any order, but the same one in every call.
_SUMS = {"reassoc", "contract", "nsz"}


@helper
def _layer(matrix, bias, x, out, zero):
    """out = matrix · x + bias, four rows a pass, so that their sums don't wait for each other."""
    n, j = matrix.shape[0], 0
    while j + 4 <= n:
        r0, r1, r2, r3 = matrix[j], matrix[j + 1], matrix[j + 2], matrix[j + 3]
        t0, t1, t2, t3 = zero, zero, zero, zero
        for k in range(x.size):
            t0 += r0[k] * x[k]
            t1 += r1[k] * x[k]
            t2 += r2[k] * x[k]
            t3 += r3[k] * x[k]
        out[j], out[j + 1] = t0 + bias[j], t1 + bias[j + 1]
        out[j + 2], out[j + 3] = t2 + bias[j + 2], t3 + bias[j + 3]
        j += 4
    while j < n:
        row, t = matrix[j], zero
        for k in range(x.size):
            t += row[k] * x[k]
        out[j] = t + bias[j]
        j += 1


@helper
def _add_rows(rows, column, weights, out):
    """out += Σ_i weights[i, column] · rows[i], four rows a pass."""
    n, i = rows.shape[0], 0
    while i + 4 <= n:
        w0, w1, w2, w3 = (
            weights[i, column],
            weights[i + 1, column],
            weights[i + 2, column],
            weights[i + 3, column],
        )
        r0, r1, r2, r3 = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
        for k in range(out.size):
            out[k] += w0 * r0[k] + w1 * r1[k] + w2 * r2[k] + w3 * r3[k]
        i += 4
    while i < n:
        w, row = weights[i, column], rows[i]
        for k in range(out.size):
            out[k] += w * row[k]
        i += 1


@helper
def _pull(outputs, label, share):
    """outputs = ∂f/∂outputs of one example that has this share of the mean. Returns its loss."""
    top = outputs[0]
    for c in range(1, outputs.size):
        top = max(top, outputs[c])
    own, total = outputs[label] - top, 0.0
    for c in range(outputs.size):
        outputs[c] = math.exp(outputs[c] - top)
        total += outputs[c]
    for c in range(outputs.size):
        outputs[c] = outputs[c] / total * share
    outputs[label] -= share
    return math.log(total) - own


@jit(fastmath=_SUMS)
def step(x, y, scale, shift, chosen, at, shares, hidden, weights, velocities, momentum, decay, rate, losses):
    """One step of SGD for each client b, on the examples chosen[at[b] : at[b + 1]]; none: the client stands still.

    x: (n, features), seen as x·scale + shift; y: (n,) labels. shares: (B,), 1 / examples of the batch.
    weights: (B, d), moved in place; velocities: (B, d), or (0, 0) without momentum. scale, shift, momentum, decay,
    rate: of the weights' type. losses: (B,) float64; the batch's mean loss is added.
    """
    features, (clients, d), zero = x.shape[1], weights.shape, scale - scale
    classes = (d - hidden * features - hidden) // (hidden + 1)
    to_b = hidden * features
    to_v, to_c = to_b + hidden, d - classes
    most = 0
    for b in range(clients):
        most = max(most, at[b + 1] - at[b])
    seen = np.empty((most, features), weights.dtype)
    active = np.empty((most, hidden), weights.dtype)
    pulls = np.empty((most, hidden), weights.dtype)
    outputs = np.empty((most, classes), weights.dtype)
    gradient = np.empty(d, weights.dtype)
    for b in range(clients):
        n, mine = at[b + 1] - at[b], weights[b]
        if n == 0:
            continue
        first, bias = mine[:to_b].reshape(hidden, features), mine[to_b:to_v]
        second, offset = mine[to_v:to_c].reshape(classes, hidden), mine[to_c:]
        gradient[:] = 0
        loss = 0.0
        for i in range(n):
            example, row, shown = chosen[at[b] + i], seen[i], active[i]
            for k in range(features):
                row[k] = x[example, k]
            for k in range(features):
                row[k] = row[k] * scale + shift
            _layer(first, bias, row, shown, zero)
            for j in range(hidden):
                shown[j] = zero if shown[j] < zero else shown[j]  # not a number stays what it is
            _layer(second, offset, shown, outputs[i], zero)
            loss += _pull(outputs[i], y[example], shares[b])
            pull = pulls[i]
            pull[:] = 0
            for c in range(classes):
                w, line = outputs[i, c], second[c]
                for j in range(hidden):
                    pull[j] += w * line[j]
            for j in range(hidden):
                pull[j] = pull[j] if shown[j] > zero else zero
                gradient[to_b + j] += pull[j]
            for c in range(classes):
                gradient[to_c + c] += outputs[i, c]
        for j in range(hidden):
            _add_rows(seen[:n], j, pulls, gradient[j * features : (j + 1) * features])
        for c in range(classes):
            _add_rows(active[:n], c, outputs, gradient[to_v + c * hidden : to_v + (c + 1) * hidden])
        losses[b] += loss / n
        for k in range(d):
            gradient[k] += decay * mine[k]
        if velocities.size:
            velocity = velocities[b]
            for k in range(d):
                velocity[k] = momentum * velocity[k] + gradient[k]
                mine[k] -= rate * velocity[k]
        else:
            for k in range(d):
                mine[k] -= rate * gradient[k]
