"""Where a single byte differs, from two digests; and by how much the updates do."""

import numpy as np
import pytest
import torch

from qafel_mpi.codecs import build
from qafel_mpi.codecs.base import Layout
from qafel_mpi.codecs.config import CodecConfig
from qafel_mpi.drivers.digests import digest
from qafel_mpi.drivers.replay.compare import Byte, Difference, apart, differing_byte, mended

PAYLOAD = np.random.default_rng(3).integers(0, 256, 1000, dtype=np.uint8)


@pytest.mark.parametrize(("offset", "bits"), [(0, 1), (1, 128), (499, 36), (998, 255), (999, 2)])
def test_a_byte_that_differs_is_found_from_the_digests(offset, bits):
    arrived = PAYLOAD.copy()
    arrived[offset] ^= bits
    found = differing_byte(PAYLOAD, digest(arrived))
    assert found == Byte(offset, int(arrived[offset]), int(PAYLOAD[offset]))
    np.testing.assert_array_equal(mended(PAYLOAD, found), arrived)


@pytest.mark.parametrize(("offset", "count"), [(0, 4), (4, 2), (500, 3), (996, 4)])
def test_an_element_that_differs_is_found_from_the_digests(offset, count):
    arrived = PAYLOAD.copy()
    arrived[offset : offset + count] ^= 0x9D
    found = differing_byte(PAYLOAD, digest(arrived))
    assert (found.offset, found.count) == (offset, count)
    assert found.arrived ^ found.computed == int.from_bytes(b"\x9d" * count, "little")
    np.testing.assert_array_equal(mended(PAYLOAD, found), arrived)


def test_by_how_much_is_bounded_by_the_norms_that_the_run_recorded():
    about = {
        "upload": 3,
        "rank": 1,
        "host": "h",
        "client": 2,
        "participation": 0,
        "start_version": 0,
        "version": 1,
    }
    made = {"payload_bytes": 8, "computed_bytes": 8, "loss": 0.5, "computed_loss": 0.5}
    found = Difference(**about, **made, norm=5.0, error=0.25, computed_norm=3.0)
    assert found.apart_at_least == 1.75
    assert "apart by 1.75 at least" in str(found)
    assert found.to_json()["apart_at_least"] == 1.75
    without = Difference(**about, **made)
    assert "norm" not in str(without)
    assert without.to_json()["apart_at_least"] is None


def test_two_bytes_that_differ_are_not_taken_for_one():
    arrived = PAYLOAD.copy()
    arrived[[10, 700]] ^= 1
    assert differing_byte(PAYLOAD, digest(arrived)) is None
    assert differing_byte(PAYLOAD, digest(PAYLOAD)) is None


def test_it_says_which_element_of_which_tensor_differs():
    layout = Layout(("weight", "bias"), ((4, 5), (5,)))
    codec = build(CodecConfig(codec="identity"), layout, torch.float32)
    computed = np.arange(1.0, 26.0, dtype=np.float32)
    arrived = computed.copy()
    arrived[22] = -arrived[22]
    found = apart(codec, arrived.view(np.uint8), computed.view(np.uint8), 0)
    assert (found.elements, found.tensor, found.index, found.largest) == (1, "bias", 2, 46.0)
    assert found.relative == pytest.approx(46.0 / np.linalg.norm(computed))
