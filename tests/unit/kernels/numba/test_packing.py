"""Packed codes against numpy's packbits: all widths, and lengths with and without whole groups of vectors.

And their sums, straight from the payload, against those of unpacked levels.
"""

import numba
import numpy as np
import pytest

from qafel_mpi.kernels.numba import packing, packing_lanes
from qafel_mpi.kernels.numba.packing import pack, unpack


@numba.njit
def pack_and_unpack(levels, n, bits, signed, out, back):
    pack(levels, n, bits, signed, out, 3)
    unpack(out, 3, n, bits, signed, back)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
def test_packed_levels_are_the_bits_of_their_codes_and_come_back(bits, signed):
    random = np.random.default_rng(bits)
    for n in (1, 7, 8, 63, 64, 65, 127, 128, 200, 513):
        codes = random.integers(0, 1 << bits, n)
        levels = np.zeros(n + 8, np.int8)
        if signed and bits == 1:
            levels[:n] = 1 - 2 * codes
        else:
            levels[:n] = codes - ((codes >> (bits - 1)) << bits if signed else 0)
        wanted, back = levels[:n].copy(), np.zeros(n + 8, np.int8)
        out = np.full(3 + -(-n * bits // 8) + 1, 0xAA, np.uint8)
        pack_and_unpack(levels, n, bits, signed, out, back)
        each = (codes[:, None] >> np.arange(bits)) & 1
        assert np.array_equal(out[3:-1], np.packbits(each.astype(np.uint8), bitorder="little"))
        assert (out[[0, 1, 2, -1]] == 0xAA).all()
        assert np.array_equal(back[:n], wanted)


# Levels are looked up in a register of 16 floats where the processor has one.
WAYS = [False, True] if packing_lanes.has("avx512f") else [False]


@pytest.mark.parametrize("looked_up", WAYS)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_codes_of_four_bits_add_up_to_the_bits_of_their_levels_times_the_factor(monkeypatch, kind, looked_up):
    monkeypatch.setattr(packing_lanes, "has", lambda *features: looked_up)
    for name, assign in (("add4", False), ("put4", True)):
        monkeypatch.setattr(packing.simd, name, packing_lanes._adder(assign))
    add_codes = numba.njit(packing.add_codes.py_func)
    random = np.random.default_rng(4)
    for n in (1, 15, 16, 17, 127, 128, 300):
        codes = random.integers(0, 16, n)
        payload = np.zeros(5 + (n + 1) // 2, np.uint8)
        levels = np.zeros(n + 8, np.int8)
        levels[:n] = values = codes - ((codes >> 3) << 4)
        pack_and_unpack(levels, n, 4, True, part := np.zeros(3 + (n + 1) // 2, np.uint8), levels.copy())
        payload[5:] = part[3:]
        before, factor = random.standard_normal(n + 9).astype(kind), kind(0.37)
        for assign in (False, True):
            wanted, found = before.copy(), before.copy()
            moved = values.astype(kind) * factor
            wanted[4 : 4 + n] = moved if assign else wanted[4 : 4 + n] + moved
            add_codes(payload, 5, 4, levels.copy(), factor, kind(1), assign, found, 4, n)
            assert found.tobytes() == wanted.tobytes()
