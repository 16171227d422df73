"""Payloads of buckets, added up as by BucketKernels, with the digest of each taken from the bytes on their way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qafel_mpi.kernels.aligned import aligned_bytes
from qafel_mpi.kernels.numba.buckets import TOGETHER, BucketKernels, unit_of
from qafel_mpi.kernels.numba.crc import STEP, Parts, begun, fold, registered
from qafel_mpi.kernels.numba.jit import float_of, helper, jit, load32, load64
from qafel_mpi.kernels.numba.packing import add_codes
from qafel_mpi.kernels.plan import BUCKET, PLACE, SLOT, START, spread

# Behind the levels of one thread, in bytes from the end: the sums of the payloads, and what its registers are to be
# xored with. An array more would take longer to hand over than 15 kB to be digested.
_XORED_BYTES = STEP
_SUMS_BYTES = STEP * TOGETHER + _XORED_BYTES


@helper
def _codes_end(table, g, bits, codes_at):
    """Behind the codes of the segments before g, in bytes of the payload."""
    return codes_at + table[g, SLOT] * bits // 8


@helper
def _extent(table, first, last, bits, codes_at, size):
    """[begin, end) of the bytes of segments first..last-1: from the codes of `first` on, or from the beginning."""
    begin = _codes_end(table, first, bits, codes_at) if first else 0
    return begin, size if last == len(table) - 1 else _codes_end(table, last, bits, codes_at)


@jit
def _decode_range(payload, table, first, last, s, bits, weight, assign, levels, codes_at, acc):
    """buckets.decode_range. Returns the register of these segments' bytes, xored."""
    kind = acc.dtype.type
    sums = levels.size * levels.itemsize - _SUMS_BYTES
    at, end = _extent(table, first, last, bits, codes_at, payload.size)
    at = begun(payload, at, end, levels, sums)
    for g in range(first, last):
        codes = _codes_end(table, g, bits, codes_at)
        read = at + (max(0, _codes_end(table, g + 1, bits, codes_at) - at) & -STEP)
        fold(payload, at, read, levels, sums)
        at = read
        unit, drop = unit_of(float_of(load32(payload, 4 * table[g, BUCKET])), s)
        add_codes(
            payload, codes, bits, levels, kind(weight) * kind(unit), drop, assign,
            acc, table[g, PLACE], table[g + 1, START] - table[g, START],
        )  # fmt: skip
    fold(payload, at, end, levels, sums)
    return registered(levels, sums) ^ load64(levels, sums + STEP * TOGETHER)


@jit
def _accumulate_range(payloads, weights, count, table, first, last, s, bits, levels, codes_at, acc):
    """buckets.accumulate_range. Returns the registers of TOGETHER payloads, xored; behind `count` any number."""
    kind = acc.dtype.type
    sums = levels.size * levels.itemsize - _SUMS_BYTES
    begin, end = _extent(table, first, last, bits, codes_at, payloads[0].size)
    at = begin
    for i in range(count):
        at = begun(payloads[i], begin, end, levels, sums + STEP * i)
    for g in range(first, last):
        codes = _codes_end(table, g, bits, codes_at)
        read = at + (max(0, _codes_end(table, g + 1, bits, codes_at) - at) & -STEP)
        for i in range(count):
            payload = payloads[i]
            fold(payload, at, read, levels, sums + STEP * i)
            unit, drop = unit_of(float_of(load32(payload, 4 * table[g, BUCKET])), s)
            add_codes(
                payload, codes, bits, levels, kind(weights[i]) * kind(unit), drop, False,
                acc, table[g, PLACE], table[g + 1, START] - table[g, START],
            )  # fmt: skip
        at = read
    for i in range(count):
        fold(payloads[i], at, end, levels, sums + STEP * i)
    xored = load64(levels, sums + STEP * TOGETHER)
    return (
        registered(levels, sums) ^ xored,
        registered(levels, sums + STEP) ^ xored,
        registered(levels, sums + 2 * STEP) ^ xored,
        registered(levels, sums + 3 * STEP) ^ xored,
    )


class BucketDigests:
    """BucketKernels.accumulate and decode with digests. Owns its scratch."""

    def __init__(self, kernels: BucketKernels):
        self._kernels = k = kernels
        ends = [k.codes_at + int(k.table[last, SLOT]) * k.bits // 8 for _, last in k.shares[:-1]]
        self._parts = Parts([*ends, k.codes_at + k.plan.code_bytes(k.bits)])
        xored = self._parts.inverted if k.alone else 0
        self._levels = [_with_sums(levels, xored) for levels in k.levels]

    def decode(self, payload: np.ndarray, acc: np.ndarray, weight: float, *, assign: bool) -> int:
        """acc += weight · Q(x), or acc = weight · Q(x). Returns the payload's CRC-64/XZ."""
        k = self._kernels
        if k.alone:
            return _decode_range(
                payload, k.table, 0, k.segments, k.s, k.bits, weight, assign,
                self._levels[0], k.codes_at, acc,
            )  # fmt: skip
        registers = [0] * len(k.shares)

        def call(i: int, first: int, last: int) -> int:
            registers[i] = _decode_range(
                payload, k.table, first, last, k.s, k.bits, weight, assign,
                self._levels[i], k.codes_at, acc,
            )  # fmt: skip
            return -1

        spread(call, k.shares)
        return self._parts.digest(registers)

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
    ) -> Sequence[int]:
        k, count = self._kernels, len(some)
        payloads, weights = k.filled_up(some), k.filled_up(scales)
        registers: list[tuple[int, ...]] = [()] * len(k.shares)

        def call(i: int, first: int, last: int) -> int:
            registers[i] = _accumulate_range(
                payloads, weights, count, k.table, first, last, k.s, k.bits,
                self._levels[i], k.codes_at, acc,
            )  # fmt: skip
            return -1

        spread(call, k.shares)
        if k.alone:
            return registers[0][:count]
        return [self._parts.digest(each) for each in zip(*registers, strict=True)][:count]


def _with_sums(levels: np.ndarray, xored: int) -> np.ndarray:
    """Levels like these, with room for the sums behind them, and what registers are xored with."""
    whole = -(-levels.nbytes // STEP) * STEP
    scratch = aligned_bytes(whole + _SUMS_BYTES)
    scratch[-_XORED_BYTES:].view(np.uint64)[0] = xored
    return scratch.view(levels.dtype)
