"""The errors of codecs on updates: numbers worked out by hand, and what is measured."""

import pytest
import torch

from qafel_mpi.bench.updates import BUDGETS, errors, menu
from qafel_mpi.codecs import CodecConfig, Layout, build
from qafel_mpi.codecs.config import CODEC_NAMES
from qafel_mpi.wire import HEADER_BYTES

TWO = Layout(("w",), ((2,),))
SIGN = {"sign": CodecConfig(codec="sign")}


def test_errors_and_bytes_are_those_worked_out_by_hand():
    # The scale is mean |u| = 2: (3, -1) becomes (2, -2), with ‖Q(u) − u‖² = 1 + 1 of ‖u‖² = 10. The sum of both
    # updates is (2, 2), and what arrives is (2 − 2, −2 + 2): nothing of it.
    (found,) = errors(TWO, [[torch.tensor([3.0, -1.0]), torch.tensor([-1.0, 3.0])]], SIGN)
    assert (found.error, found.least, found.most, found.error_of_sums) == pytest.approx((0.2, 0.2, 0.2, 1.0))
    assert found.wire_bytes == HEADER_BYTES + 4 + 1
    assert found.bits_per_element == 4 * found.wire_bytes


def test_the_mean_is_over_all_updates_and_sums_are_of_a_batch():
    # (1, 1) becomes itself, and the sum of one is that one.
    (found,) = errors(TWO, [[torch.tensor([3.0, -1.0])], [torch.tensor([1.0, 1.0])]], SIGN)
    assert (found.error, found.least, found.most) == pytest.approx((0.1, 0.0, 0.2))
    assert found.error_of_sums == pytest.approx(0.1)


def test_every_codec_of_the_package_is_measured_and_floats_have_no_error():
    layout = Layout(("w", "b"), ((40, 30), (30,)))
    update = torch.randn(layout.elements, generator=torch.Generator().manual_seed(0))
    found = {one.codec: one for one in errors(layout, [[update]])}
    assert {config.codec for config in menu(layout, 1.0).values()} == set(CODEC_NAMES)
    assert found["float32"].error == 0
    assert found["lattice, 8 bits"].most < 1e-3, "nothing may be too far for lattice"
    assert found["eden, 1 bits, least squares"].error < found["eden, 1 bits"].error
    assert found["qsgd, 8 bits"].error < found["qsgd, 4 bits"].error < found["qsgd, 2 bits"].error


def test_topk_and_randk_fill_so_many_bits_per_element():
    layout = Layout(("w",), ((100, 128),))
    for name in ("topk", "randk"):
        for bits in BUDGETS:
            config = menu(layout, 1.0)[f"{name}, {bits} bits' worth"]
            assert build(config, layout).payload_bytes() * 8 == bits * layout.elements
