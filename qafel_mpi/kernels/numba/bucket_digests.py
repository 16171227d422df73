"""Payloads of buckets, added up as by BucketKernels, with the digest of each taken from the bytes on their way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from qafel_mpi.kernels.aligned import aligned_bytes
from qafel_mpi.kernels.numba.buckets import TOGETHER, ZERO, BucketKernels, here, unit_of
from qafel_mpi.kernels.numba.crc import STATE, STEP, Parts, fold, registered
from qafel_mpi.kernels.numba.jit import float_of, helper, jit, load32
from qafel_mpi.kernels.numba.packing import add_levels, unpack
from qafel_mpi.kernels.plan import BUCKET, SLOT, spread


@helper
def _codes_end(table, g, bits, codes_at):
    """Behind the codes of the segments before g, in bytes of the payload."""
    return codes_at + table[g, SLOT] * bits // 8


@jit
def _decode_range(
    payload, table, first, last, s, bits, weight, assign, levels, codes_at, acc, states, registers
):
    """buckets.decode_range, and the register of the payload's bytes up to the codes of segment `last`, from those of
    segment `first` on, or from the beginning.

    states: (STATE,) uint64. registers: (1,) uint64.
    """
    kind = acc.dtype.type
    at = _codes_end(table, first, bits, codes_at) if first else 0
    states[:] = 0
    for g in range(first, last):
        target = here(acc, table, g)
        read = at + ((_codes_end(table, g + 1, bits, codes_at) - at) & -STEP)
        fold(payload, at, read, states, 0)
        at = read
        unit, drop = unit_of(float_of(load32(payload, 4 * table[g, BUCKET])), s)
        unpack(payload, _codes_end(table, g, bits, codes_at), target.size, bits, True, levels)
        add_levels(levels, ZERO, kind(weight) * kind(unit), drop, assign, target)
    end = payload.size if last == len(table) - 1 else _codes_end(table, last, bits, codes_at)
    registers[0] = registered(payload, at, end, states, 0)
    return -1


@jit
def _accumulate_range(
    payloads, weights, count, table, first, last, s, bits, levels, codes_at, acc, states, registers
):
    """buckets.accumulate_range, and the registers of the payloads. states: (count · STATE,). registers: (count,)."""
    kind = acc.dtype.type
    at = _codes_end(table, first, bits, codes_at) if first else 0
    states[:] = 0
    for g in range(first, last):
        target = here(acc, table, g)
        read = at + ((_codes_end(table, g + 1, bits, codes_at) - at) & -STEP)
        for i in range(count):
            payload = payloads[i]
            fold(payload, at, read, states, STATE * i)
            unit, drop = unit_of(float_of(load32(payload, 4 * table[g, BUCKET])), s)
            unpack(payload, _codes_end(table, g, bits, codes_at), target.size, bits, True, levels)
            add_levels(levels, ZERO, kind(weights[i]) * kind(unit), drop, False, target)
        at = read
    end = payloads[0].size if last == len(table) - 1 else _codes_end(table, last, bits, codes_at)
    for i in range(count):
        registers[i] = registered(payloads[i], at, end, states, STATE * i)
    return -1


class BucketDigests:
    """BucketKernels.accumulate and decode with digests. Owns its scratch."""

    def __init__(self, kernels: BucketKernels):
        self._kernels = k = kernels
        ends = [k.codes_at + int(k.table[last, SLOT]) * k.bits // 8 for _, last in k.shares[:-1]]
        self._parts = Parts([*ends, k.codes_at + k.plan.code_bytes(k.bits)])
        self._states = [aligned_bytes(8 * STATE * TOGETHER).view(np.uint64) for _ in k.shares]
        self._registers = np.zeros((len(k.shares), TOGETHER), dtype=np.uint64)

    def decode(self, payload: np.ndarray, acc: np.ndarray, weight: float, *, assign: bool) -> int:
        """acc += weight · Q(x), or acc = weight · Q(x). Returns the payload's CRC-64/XZ."""
        k = self._kernels

        def call(i: int, first: int, last: int) -> int:
            return _decode_range(
                payload, k.table, first, last, k.s, k.bits, weight, assign,
                k.levels[i], k.codes_at, acc, self._states[i], self._registers[i],
            )  # fmt: skip

        spread(call, k.shares)
        return self._parts.digest(self._registers[:, 0])

    def accumulate(
        self, payloads: Sequence[np.ndarray], acc: np.ndarray, weights: Sequence[float]
    ) -> list[int]:
        """acc += Σ weight · Q(x). Returns the CRC-64/XZ of each payload."""
        found: list[int] = []
        for at in range(0, len(payloads), TOGETHER):
            found += self._accumulate(payloads[at : at + TOGETHER], acc, weights[at : at + TOGETHER])
        return found

    def _accumulate(
        self, some: Sequence[np.ndarray], acc: np.ndarray, scales: Sequence[float]
    ) -> Iterator[int]:
        k, count = self._kernels, len(some)
        payloads, weights = k.filled_up(some), k.filled_up(scales)

        def call(i: int, first: int, last: int) -> int:
            return _accumulate_range(
                payloads, weights, count, k.table, first, last, k.s, k.bits,
                k.levels[i], k.codes_at, acc, self._states[i], self._registers[i],
            )  # fmt: skip

        spread(call, k.shares)
        return (self._parts.digest(self._registers[:, i]) for i in range(count))
