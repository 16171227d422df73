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
            whole = crc.begun(data, begin, end, states, crc.STEP)
            crc.fold(data, whole, end, states, crc.STEP)
            return crc.registered(states, crc.STEP)

        folded(np.zeros(100, np.uint8), 0, 100, _states())
    return lambda data, begin, end: int(folded(data, begin, end, _states()))


def _states() -> np.ndarray:
    """Whatever lay there before: the second sum is to be used."""
    return np.full(2 * crc.STEP, 0xA5, np.uint8)


def test_all_lengths_have_the_librarys_digest(register):
    content = np.random.default_rng(0).bytes(3 * crc.ABREAST * crc.STEP + crc.STEP)
    for size in range(1, len(content) + 1):
        data = np.frombuffer(content[:size], np.uint8).copy()
        parts = crc.Parts([size])
        found = register(data, 0, size)
        assert parts.inverted ^ found == parts.digest([found]) == crc64.xz(content[:size]), size


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=700), st.lists(st.integers(0, 700), max_size=3))
def test_parts_that_were_taken_apart_have_the_digest_of_the_whole(register, content, cuts):
    data = np.frombuffer(content, np.uint8).copy()
    ends = [*sorted(cut for cut in cuts if cut < data.size), data.size]
    each = [register(data, begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
    assert crc.Parts(ends).digest(each) == crc64.xz(content)


def test_powers_of_x_add_their_exponents():
    assert crc.product(crc.power(70), crc.power(301)) == crc.power(371)


def test_a_register_moved_on_by_a_word_is_its_product_with_x_to_the_64(register):
    for value in (1, 1 << 63, 0xDEADBEEF12345678, 2**64 - 1):
        content = np.frombuffer(value.to_bytes(8, "little"), np.uint8)
        assert register(content, 0, 8) == crc.product(value, crc.power(64))
