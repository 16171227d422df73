"""Many short vectors in one call: what a message costs in Python is more than what its 100 elements cost.

The bytes and the sums are those of cpu.BucketKernels and keys.derive, one after the other.
"""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.keys import of_stream
from qafel_mpi.kernels.numba.buckets import BucketKernels, decode_range, encode_range, scales_valid
from qafel_mpi.kernels.numba.jit import helper, jit

_WORD, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_27, _30, _31 = np.uint64(27), np.uint64(30), np.uint64(31)


@helper
def _splitmix64(z):
    """keys.splitmix64."""
    z = np.uint64(z + _GOLDEN)
    z = np.uint64(np.uint64(z ^ (z >> _30)) * _MIX1)
    z = np.uint64(np.uint64(z ^ (z >> _27)) * _MIX2)
    return np.uint64(z ^ (z >> _31))


@jit
def _chain(prefix, pairs, keys):
    for i in range(keys.size):
        owner, counter = np.uint64(pairs[i, 0]), np.uint64(pairs[i, 1])
        keys[i] = _splitmix64(np.uint64(_splitmix64(np.uint64(prefix ^ owner)) ^ counter))


def derive_rows(run_seed: int, stream: int, pairs: np.ndarray) -> np.ndarray:
    """keys.derive of each (owner, counter). pairs: (n, 2) int64. Returns (n,) uint64."""
    keys = np.empty(len(pairs), dtype=np.uint64)
    _chain(np.uint64(of_stream(run_seed, stream)), pairs, keys)
    return keys


@jit
def _encode(xs, keys, table, kind, s, bits, scratch, levels, payloads, codes_at):
    for i in range(len(xs)):
        k0, k1 = np.int64(keys[i] & _WORD), np.int64(keys[i] >> _HALF)
        bad = encode_range(
            xs[i], xs[i], False, False, table, 0, len(table) - 1, kind, s, bits, k0, k1,
            scratch, levels, payloads[i], codes_at,
        )  # fmt: skip
        if bad >= 0:
            return i
    return -1


@jit
def _valid(payloads, buckets, most):
    for i in range(len(payloads)):
        if not scales_valid(payloads[i], buckets, most):
            return i
    return -1


@jit
def _accumulate(payloads, table, s, bits, weights, levels, codes_at, acc):
    for i in range(len(payloads)):
        decode_range(payloads[i], table, 0, len(table) - 1, s, bits, weights[i], False, levels, codes_at, acc)


class RowKernels:
    """BucketKernels for rows of payloads, where every bucket is one segment. On one thread."""

    def __init__(self, one: BucketKernels):
        self.one = one

    def encode(self, xs: np.ndarray, payloads: np.ndarray, keys: np.ndarray) -> int:
        """xs: (n, d). payloads: (n, bytes) uint8. keys: (n,) uint64. A row that is not finite, or -1."""
        k = self.one
        return _encode(
            xs, keys, k.table, k.kind, k.s, k.bits, k.scratch[0], k.levels[0], payloads, k.codes_at
        )

    def invalid(self, payloads: np.ndarray) -> int:
        """The first row with a scale that is negative, or so large that a code may be no finite number, or -1."""
        return _valid(payloads, self.one.plan.buckets, self.one.most)

    def accumulate(self, payloads: np.ndarray, acc: np.ndarray, weights: np.ndarray) -> None:
        """acc += Σ weights_i · Q(x_i), in this order. weights: (n,) float64."""
        k = self.one
        _accumulate(payloads, k.table, k.s, k.bits, weights, k.levels[0], k.codes_at, acc)
