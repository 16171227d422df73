"""Norm, ReLU and pool in one kernel, by hand: one channel's few numbers."""

from __future__ import annotations

import numpy as np

from qafel_mpi.tasks.models import cnn_kernels as kernels


def test_windows_say_where_their_largest_was_or_that_the_relu_cut_it() -> None:
    x = np.zeros((1, 3, 5, kernels.CHANNELS), np.float32)
    x[0, :2, :4, 0] = [[1, 2, -3, -9], [4, 4, -5, -4]]  # the last row and column are of no window
    out = np.empty((1, 1, 2, kernels.CHANNELS), np.float32)
    place, mean = np.empty(out.shape, np.uint8), np.empty((1, kernels.CHANNELS), np.float32)
    root = np.empty_like(mean)
    ones = np.ones(kernels.CHANNELS, np.float32)
    kernels.forward(x, ones, 0 * ones, np.float32(0), out, place, mean, root)
    values = x[0, :, :, 0]
    assert mean[0, 0] == np.float32(values.mean())
    assert root[0, 0] == np.float32(1 / values.std())
    np.testing.assert_allclose(out[0, 0, :, 0], [(4 - values.mean()) / values.std(), 0], rtol=1e-6)
    assert place[0, 0, :, 0].tolist() == [2, kernels.CUT]
