"""Every element of a vector lies in one bucket, and little is added to fill them up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qafel_mpi.kernels.blocks import LANES, Blocks, _fewest


@given(elements=st.integers(1, 200_000), bucket=st.sampled_from([8, 128, 512, 4096]))
def test_blocks_hold_every_element_once_and_in_order(elements, bucket):
    blocks, at, buckets = Blocks(elements, bucket), 0, 0
    for block in blocks:
        assert (block.begin, block.first_bucket) == (at, buckets)
        assert 0 < block.elements <= block.padded
        assert 1 <= block.lanes <= LANES
        assert 8 <= block.bucket <= bucket
        at, buckets = at + block.elements, buckets + block.lanes
    assert (at, buckets) == (elements, blocks.buckets)
    assert blocks.padded == sum(block.padded for block in blocks)
    assert blocks.padded % 8 == 0
    assert blocks.padded - elements < max(8, bucket)
    assert blocks.ends[-1] == elements


@pytest.mark.parametrize(
    ("left", "found"), [(4706, (10, 512)), (600, (5, 128)), (113, (1, 128)), (20, (1, 32)), (1, (1, 8))]
)
def test_what_is_left_goes_into_the_buckets_that_cost_least(left, found):
    """113: one bucket of 128 costs 128 + 16, two of 64 cost 128 + 32."""
    assert _fewest(left, 512) == found


@pytest.mark.parametrize("bucket", [0, 4, 100, 8192])
def test_other_buckets_are_refused(bucket):
    with pytest.raises(ValueError, match="a power of two from 8 to 4096"):
        Blocks(10, bucket)


def test_a_block_s_signs_begin_where_those_before_it_end():
    first = [block.first_position for block in Blocks(2 * 16 * 128 + 5, 128)]
    assert np.array_equal(first, [0, 128, 256])
