"""Text as bytes: windows that lose nothing but a rest, and the entropy that a model is compared with."""

from __future__ import annotations

import numpy as np
import pytest

from qafel_mpi.tasks import DataError
from qafel_mpi.tasks.text import entropy_bits, mixed, windows


def test_every_byte_of_a_window_is_predicted_from_those_before_it() -> None:
    x, y, user = windows([b"abcdefgh", b"", b"12345", b"xyz"], 3)
    assert [bytes(row) for row in x] == [b"abc", b"def", b"123"]
    assert [bytes(row) for row in y] == [b"bcd", b"efg", b"234"]
    assert user.tolist() == [0, 0, 2]


def test_texts_that_are_too_short_for_one_window_are_refused() -> None:
    with pytest.raises(DataError, match="2 texts, and none has the 9 bytes"):
        windows([b"abcdefgh", b"a"], 8)


def test_the_first_windows_of_the_mixed_ones_are_a_sample_of_all_texts() -> None:
    found = windows([bytes([k]) * 101 for k in range(10)], 10)
    x, y = mixed(found)
    assert np.array_equal(x, y)
    assert len(set(x[:20, 0].tolist())) > 5
    assert np.array_equal(np.sort(x, axis=0), np.sort(found[0], axis=0))


def test_the_entropy_is_that_of_the_frequencies() -> None:
    assert entropy_bits(np.array([[0, 1], [2, 3]]), 256) == 2.0
    assert entropy_bits(np.array([0, 0, 0, 1]), 4) == pytest.approx(0.8112781)
