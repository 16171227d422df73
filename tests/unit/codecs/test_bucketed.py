"""Codecs with a scale per bucket: their kernels against the plain formula, and threads against one."""

import numpy as np
import pytest
import torch

from qafel_mpi.codecs import CodecConfig, Layout, PayloadError, build
from qafel_mpi.codecs.bucketed import Bucketed
from qafel_mpi.kernels import reference
from qafel_mpi.kernels.plan import ELEMENTS_PER_THREAD
from qafel_mpi.testing.codecs import LAYOUT, decoded, encoded
from qafel_mpi.testing.strategies import gaussian


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 7, 8, 11, 16])
@pytest.mark.parametrize("scale", ["linf", "l2"])
@pytest.mark.parametrize("bucket", [64, 100, 512, "tensor", "layer"])
def test_the_fast_kernels_give_the_bytes_of_the_reference(bits, scale, bucket):
    for exponent in (0, -42, 36):
        x = (gaussian(LAYOUT.elements).clamp(-3, 3).double() * 10.0**exponent).float()
        c = build(CodecConfig(bits=bits, scale=scale, bucket=bucket), LAYOUT)
        edges = LAYOUT.offsets if bucket == "layer" else None
        size = LAYOUT.elements if bucket == "tensor" else bucket
        starts = np.array(edges or [*range(0, LAYOUT.elements, size), LAYOUT.elements])  # type: ignore[arg-type]
        s = max(1, 2 ** (bits - 1) - 1)
        plain = reference.encode_qsgd(x.numpy(), starts, bits, s, scale == "l2", 0xFEDCBA9876543210)
        assert encoded(c, x, key=0xFEDCBA9876543210).tobytes() == plain.tobytes()
        values = reference.decode_qsgd(plain, starts, bits, s)
        assert decoded(c, x, key=0xFEDCBA9876543210).numpy().tobytes() == values.tobytes()


def test_two_threads_give_the_bytes_of_one():
    layout = Layout(("v",), ((1_000_003,),))
    x = gaussian(1_000_003)
    for config in (CodecConfig(), CodecConfig(bucket="tensor", scale="l2"), CodecConfig(codec="sign")):
        one, two = (build(config, layout, threads=t) for t in (1, 2))
        assert isinstance(two, Bucketed)
        assert len(two._cpu.shares) == 2
        assert encoded(one, x).tobytes() == encoded(two, x).tobytes()
        assert torch.equal(decoded(one, x), decoded(two, x))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("messages", [2, 4, 7])
def test_long_messages_in_one_call_are_those_of_one_at_a_time_to_the_bit(messages, threads):
    """Longer than what is copied for one call, and than what one thread is given."""
    layout = Layout(("x",), ((3 * ELEMENTS_PER_THREAD + 5,),))
    c = build(CodecConfig(codec="qsgd", bits=4), layout, threads=threads)
    payloads = [encoded(c, gaussian(layout.elements, seed)) for seed in range(messages)]
    weights = [1 / (i + 3) for i in range(messages)]
    together, one_by_one = (gaussian(layout.elements, 9) for _ in range(2))
    c.accumulate_all(payloads, together, weights, [7] * messages)
    for payload, weight in zip(payloads, weights, strict=True):
        c.accumulate(payload, one_by_one, weight, 7)
    assert torch.equal(together, one_by_one)
    payloads[-1][:4] = 0xFF
    with pytest.raises(PayloadError):
        c.accumulate_all(payloads, together, weights, [7] * messages)
    assert torch.equal(together, one_by_one)


def test_a_code_that_no_encoder_writes_decodes_as_the_number_it_is():
    """FORMAT.md: −2^(bits−1), and with `levels` others too."""
    c = build(CodecConfig(bits=2), Layout(("v",), ((4,),)))
    for scale, value in ((1.0, -2.0), (1.7e38, -3.4e38)):
        payload = np.append(np.array([scale], "<f4").view(np.uint8), np.uint8(0b10))
        out = torch.zeros(4)
        c.decode(payload, out, 7)
        assert out.tolist() == [pytest.approx(value), 0, 0, 0]


@pytest.mark.parametrize("config", [{"bits": 4}, {"levels": 5}, {"bits": 3, "bucket": "layer"}], ids=str)
def test_a_code_that_stands_for_an_infinity_is_refused_and_the_largest_float_is_not(config):
    """Level −8 of 4 bits beside a scale of 3.3e38 and s = 7 would be −3.8e38, above the largest float32."""
    c = build(CodecConfig(**config), LAYOUT)
    x = gaussian(LAYOUT.elements).clamp(-3, 3)
    x *= 3.3e38 / x.abs().max()
    payloads = [encoded(c, x) for _ in range(2)]
    assert torch.isfinite(decoded(c, x)).all()
    acc = torch.zeros(LAYOUT.elements, dtype=torch.float64)
    c.accumulate_all(payloads, acc, [0.25, 0.25], [7, 7])
    assert torch.isfinite(acc).all()
    least = 1 << (c.bits - 1)  # the code of the level that no encoder writes, in the first of the bytes
    payloads[1][4 * c.plan.buckets] = least
    before = acc.clone()
    for decode in (
        lambda: c.decode(payloads[1], acc, 7),
        lambda: c.accumulate(payloads[1], acc, 1.0, 7),
        lambda: c.accumulate_all(payloads, acc, [0.25, 0.25], [7, 7]),
    ):
        with pytest.raises(PayloadError, match="decodes to a number that is not finite"):
            decode()
    assert torch.equal(acc, before)
