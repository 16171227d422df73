"""CRC-64/XZ folded from words, against the library's, for all lengths, in parts, with products of either width."""

from collections.abc import Callable

import numpy as np
import pytest
from fastcrc import crc64
from hypothesis import given, settings
from hypothesis import strategies as st

from qafel_mpi.kernels.numba import crc
from qafel_mpi.kernels.numba.jit import njit

WIDTHS = [width for width in (128, 512) if width <= crc.width()]
Register = Callable[[np.ndarray, int, int], int]
pytestmark = pytest.mark.skipif(not crc.width(), reason="no carry-less products on this processor")


@pytest.fixture(scope="module", params=WIDTHS, ids="{} bits".format)
def register(request) -> Register:
    """(bytes, begin, end) -> the register of these alone; compiled with products of this width."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crc, "width", lambda: request.param)

        @njit
        def folded(data, begin, end, states):
            whole = begin + ((end - begin) & -crc.STEP)
            crc.fold(data, begin, whole, states, crc.STATE)
            return crc.registered(data, whole, end, states, crc.STATE)

        folded(np.zeros(100, np.uint8), 0, 100, np.zeros(2 * crc.STATE, np.uint64))
    return lambda data, begin, end: folded(data, begin, end, np.zeros(2 * crc.STATE, np.uint64))


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=700))
def test_all_lengths_have_the_librarys_digest(register, content):
    data = np.frombuffer(content, np.uint8).copy()
    found = crc.Parts([data.size]).digest(np.array([register(data, 0, data.size)], dtype=np.uint64))
    assert found == crc64.xz(content)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=700), st.lists(st.integers(0, 700), max_size=3))
def test_parts_that_were_taken_apart_have_the_digest_of_the_whole(register, content, cuts):
    data = np.frombuffer(content, np.uint8).copy()
    ends = [*sorted(cut for cut in cuts if cut < data.size), data.size]
    each = [register(data, begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
    assert crc.Parts(ends).digest(np.array(each, dtype=np.uint64)) == crc64.xz(content)


def test_powers_of_x_add_their_exponents():
    assert crc.product(crc.power(70), crc.power(301)) == crc.power(371)
