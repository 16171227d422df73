"""What follows a convolution of the paper's CNN, in numba: GroupNorm of one channel a group, ReLU, max-pool 2.

torch's own three layers read and write all of a convolution's output some ten times; here it is read from a core's
cache, an image at a time. Arrays are (images, height, width, CHANNELS), so that a vector register holds channels of a
pixel, whose sums need no order of their own. All in one type, float32 or float64. A given machine type gives the same
bits for an image whatever else is in the call.
"""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.numba.jit import helper, jit

CHANNELS = 32  # known to the compiler, which leaves no loop over them
CUT = 4  # the place of a window whose largest value the ReLU has cut off


@helper
def _moments(pixels, epsilon, mean, root):
    """mean: of each channel; root: 1 / sqrt(variance + epsilon). pixels: (height · width, CHANNELS), four a pass."""
    n = pixels.shape[0]
    count, zero, k = pixels.dtype.type(n), epsilon - epsilon, 0
    for c in range(CHANNELS):
        mean[c] = root[c] = zero
    while k + 4 <= n:
        for c in range(CHANNELS):
            mean[c] += (pixels[k, c] + pixels[k + 1, c]) + (pixels[k + 2, c] + pixels[k + 3, c])
        k += 4
    while k < n:
        for c in range(CHANNELS):
            mean[c] += pixels[k, c]
        k += 1
    for c in range(CHANNELS):
        mean[c] /= count
    k = 0
    while k + 4 <= n:
        for c in range(CHANNELS):
            m = mean[c]
            a, b, d, e = pixels[k, c] - m, pixels[k + 1, c] - m, pixels[k + 2, c] - m, pixels[k + 3, c] - m
            root[c] += (a * a + b * b) + (d * d + e * e)
        k += 4
    while k < n:
        for c in range(CHANNELS):
            a = pixels[k, c] - mean[c]
            root[c] += a * a
        k += 1
    for c in range(CHANNELS):
        root[c] = count / count / np.sqrt(root[c] / count + epsilon)


@jit
def forward(x, gain, offset, epsilon, out, place, mean, root):
    """out = max-pool of relu((x - mean) · root · gain + offset).

    x: (n, h, w, CHANNELS). gain, offset: (CHANNELS,). out: (n, h // 2, w // 2, CHANNELS). place: like out, uint8;
    where in its window an output was, 0 to 3, or CUT. mean, root: (n, CHANNELS). What is no number stays none.
    """
    n, h, w, _ = x.shape
    zero = epsilon - epsilon
    scale, shift = np.empty(CHANNELS, x.dtype), np.empty(CHANNELS, x.dtype)
    for i in range(n):
        _moments(x[i].reshape(h * w, CHANNELS), epsilon, mean[i], root[i])
        for c in range(CHANNELS):
            scale[c] = gain[c] * root[i, c]
            shift[c] = offset[c] - mean[i, c] * scale[c]
        for p in range(h // 2):
            upper, lower, row, places = x[i, 2 * p], x[i, 2 * p + 1], out[i, p], place[i, p]
            for q in range(w // 2):
                for c in range(CHANNELS):
                    s, t = scale[c], shift[c]
                    a, b = upper[2 * q, c] * s + t, upper[2 * q + 1, c] * s + t
                    d, e = lower[2 * q, c] * s + t, lower[2 * q + 1, c] * s + t
                    top, k = (zero, CUT) if a <= zero else (a, 0)
                    top, k = (top, k) if b <= top else (b, 1)
                    top, k = (top, k) if d <= top else (d, 2)
                    top, k = (top, k) if e <= top else (e, 3)
                    row[q, c] = top
                    places[q, c] = k


@jit
def backward(pull, x, place, mean, root, gain, dx, dgain, doffset):
    """The gradients of `forward` by x, gain and offset, from pull, the one by out. x, place, mean, root: as there.

    With y = (x - mean) · root and g, the pulls at their places, dx = gain · root · (g - Σg / hw - y · Σ(g · y) / hw).
    """
    n, h, w, _ = x.shape
    count = x.dtype.type(h * w)
    zero = count - count
    scale, base, slope = np.empty(CHANNELS, x.dtype), np.empty(CHANNELS, x.dtype), np.empty(CHANNELS, x.dtype)
    dgain[:] = zero
    doffset[:] = zero
    for i in range(n):
        base[:] = zero  # Σ g
        slope[:] = zero  # Σ g · (x - mean)
        for p in range(h // 2):
            upper, lower, row, places = x[i, 2 * p], x[i, 2 * p + 1], pull[i, p], place[i, p]
            for q in range(w // 2):
                for c in range(CHANNELS):
                    # Everything is loaded before it is chosen from: else the compiler takes no vectors.
                    a, b, d, e = upper[2 * q, c], upper[2 * q + 1, c], lower[2 * q, c], lower[2 * q + 1, c]
                    g, k = row[q, c], places[q, c]
                    v = a if k == 0 else b
                    v = d if k == 2 else v
                    v = e if k == 3 else v
                    g = zero if k == CUT else g
                    base[c] += g
                    slope[c] += g * (v - mean[i, c])
        for c in range(CHANNELS):
            dgain[c] += slope[c] * root[i, c]
            doffset[c] += base[c]
            scale[c] = gain[c] * root[i, c]
            slope[c] = -scale[c] * root[i, c] * root[i, c] * slope[c] / count
            base[c] = -scale[c] * base[c] / count - mean[i, c] * slope[c]
        _spread(pull[i], x[i], place[i], scale, base, slope, dx[i])


@helper
def _spread(pull, x, place, scale, base, slope, dx):
    """dx = base + slope · x, and scale · pull on top where an output was; of one image."""
    h, w, _ = x.shape
    zero = scale.dtype.type(0)
    for p in range(h // 2):
        upper, lower, row, places = x[2 * p], x[2 * p + 1], pull[p], place[p]
        to_upper, to_lower = dx[2 * p], dx[2 * p + 1]
        for q in range(w // 2):
            for c in range(CHANNELS):
                b, s, g, k = base[c], slope[c], row[q, c] * scale[c], places[q, c]
                to_upper[2 * q, c] = b + s * upper[2 * q, c] + (g if k == 0 else zero)
                to_upper[2 * q + 1, c] = b + s * upper[2 * q + 1, c] + (g if k == 1 else zero)
                to_lower[2 * q, c] = b + s * lower[2 * q, c] + (g if k == 2 else zero)
                to_lower[2 * q + 1, c] = b + s * lower[2 * q + 1, c] + (g if k == 3 else zero)
    for p in range(h):  # the last row and column of odd sizes belong to no window
        for q in range(w - w % 2 if p < h - h % 2 else 0, w):
            for c in range(CHANNELS):
                dx[p, q, c] = base[c] + slope[c] * x[p, q, c]
