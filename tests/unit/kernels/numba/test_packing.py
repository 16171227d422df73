"""Packed codes against numpy's packbits: all widths, and lengths with and without whole groups of vectors."""

import numba
import numpy as np
import pytest

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
