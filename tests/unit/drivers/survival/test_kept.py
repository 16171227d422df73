"""What clients keep, as rows."""

import numpy as np
import pytest

from qafel_mpi.drivers.survival.kept import PART_BYTES, kept_of, parts, rows_of

KEPT = {7: (b"abc", 2**64 - 1), 3: (b"xyz", 0)}


def test_rows_give_back_what_clients_keep_and_do_not_depend_on_the_order():
    rows = rows_of(KEPT)
    assert rows.shape == (2, 16 + 3)
    assert kept_of(rows) == KEPT
    assert np.array_equal(rows, rows_of(dict(sorted(KEPT.items()))))


def test_a_rank_takes_the_rows_of_its_own_clients():
    assert kept_of(rows_of(KEPT), lambda client: client == 7) == {7: KEPT[7]}


def test_clients_that_keep_nothing_are_no_rows():
    assert kept_of(rows_of({})) == {}


@pytest.mark.parametrize("wrong", [{}, np.zeros((1, 8), np.uint8), np.zeros(20, np.uint8), np.zeros((1, 20))])
def test_another_array_is_refused(wrong):
    with pytest.raises(ValueError, match="no array of rows"):
        kept_of(wrong)


@pytest.mark.parametrize(
    ("count", "width"), [(0, 16), (5, 16), (3, PART_BYTES), (7, PART_BYTES // 3), (2, 2 * PART_BYTES)]
)
def test_parts_cover_all_rows_once_and_are_small(count, width):
    found = parts(count, width)
    assert [row for part in found for row in range(part.start, part.stop)] == list(range(count))
    assert all(
        (part.stop - part.start) * width <= PART_BYTES or part.stop - part.start == 1 for part in found
    )
