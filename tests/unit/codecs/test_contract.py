"""Our codecs keep the contract of qafel_mpi.testing, and what only some of them promise beside it."""

import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qafel_mpi.codecs import CODECS, CodecConfig, Layout, PayloadError, build
from qafel_mpi.codecs.bucketed import Bucketed
from qafel_mpi.codecs.measure import contraction_warning, relative_error
from qafel_mpi.codecs.sizes import paper_message_bytes
from qafel_mpi.kernels import plan, reference
from qafel_mpi.kernels.plan import ELEMENTS_PER_THREAD
from qafel_mpi.testing import CodecContract
from qafel_mpi.testing.codecs import LAYOUT, decoded, encoded
from qafel_mpi.testing.strategies import gaussian, overwritten

warnings.filterwarnings("ignore", message=".*no contraction.*")

CONFIGS = {
    "identity": {"codec": "identity"},
    **{f"qsgd {b} bits": {"bits": b} for b in (*range(1, 17), 32)},
    "qsgd 5 levels": {"levels": 5},
    "qsgd l2 tensor": {"bits": 4, "scale": "l2", "bucket": "tensor"},
    "qsgd layer": {"bits": 3, "bucket": "layer"},
    "qsgd 100": {"bits": 5, "bucket": 100},
    **{f"affine {b} bits": {"codec": "affine", "bits": b} for b in range(1, 9)},
    "affine in buckets": {"codec": "affine", "bits": 4, "bucket": 100},
    "topk": {"codec": "topk", "fraction": 0.1},
    "randk": {"codec": "randk", "fraction": 0.3},
    "sign": {"codec": "sign"},
    "zstd": {"bits": 4, "entropy": "zstd"},
}
CNN_2 = (
    [("w0", (32, 3, 3, 3)), ("b0", (32,))]
    + [(f"w{i}", (32, 32, 3, 3)) for i in (1, 2, 3)]
    + [(f"b{i}", (32,)) for i in (1, 2, 3)]
    + [("g", (32,)), ("h", (32,)), ("l", (2, 288)), ("lb", (2,))]
)


def codec(name: str, layout: Layout = LAYOUT, dtype: torch.dtype = torch.float32):
    return build(CodecConfig(**CONFIGS[name]), layout, dtype)


class TestContract(CodecContract):
    @pytest.fixture(scope="class", params=CONFIGS)
    @classmethod
    def make(cls, request):
        return lambda layout, dtype: codec(request.param, layout, dtype)

    def damaged(self, codec, changes):
        """With zstd a good frame around a damaged payload: a damaged frame is found by zstd itself."""
        inner = getattr(codec, "inner", codec)
        payload = overwritten(encoded(inner, gaussian(LAYOUT.elements)), changes)
        if inner is codec:
            return payload
        codec._raw[:], out = payload, np.zeros(codec.payload_bytes(), np.uint8)
        return out[: codec.compress(payload.size, out)]

    def may_overflow(self, codec, payload):
        """FORMAT.md's exception: a code that no encoder writes can stand for an infinity beside a huge scale."""
        bucketed, raw = getattr(codec, "inner", codec), codec.validate(payload)
        if not isinstance(bucketed, Bucketed) or bucketed.bits == 1:
            return False
        largest = raw[: 4 * bucketed.plan.buckets].view("<f4").max()
        return largest > float(np.finfo(np.float32).max) * bucketed.s / 2.0 ** (bucketed.bits - 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_codecs_that_draw_give_other_bytes_for_another_key_and_others_do_not(name):
    c, x = codec(name), gaussian(LAYOUT.elements)
    different = encoded(c, x, key=7).tobytes() != encoded(c, x, key=8).tobytes()
    assert different == (name.startswith(("qsgd", "randk", "zstd")) and "32" not in name)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_damage_can_be_seen_is_refused_and_codes_are_not_looked_at(name):
    c = codec(name)
    with pytest.raises(PayloadError):
        c.validate(TestContract().damaged(c, [(0.0, b"\xff" * 8)]))
    if name not in ("identity", "qsgd 32 bits", "topk", "randk"):  # whose last bytes are no codes
        c.validate(TestContract().damaged(c, [(1.0, b"\x00")]))


@pytest.mark.parametrize("bits", range(1, 9))
def test_an_affine_scale_whose_values_round_to_infinity_is_refused(bits):
    """The largest float32 over the top code: less than that in float64, but not always in float32."""
    c = build(CodecConfig(codec="affine", bits=bits), Layout(("w",), ((1, 3),)))
    top, largest = 2**bits - 1, float(np.finfo(np.float32).max)
    for scale in (largest / top, largest):
        payload = np.zeros(c.payload_bytes(), np.uint8)
        payload[:8], payload[12:] = np.array([scale]).view(np.uint8), 0xFF
        with pytest.raises(PayloadError):
            c.validate(payload)
    x = torch.tensor([largest, 0.0, 0.0])
    assert torch.isfinite(decoded(c, x)).all()
    c.validate(encoded(c, x))


def test_a_code_that_no_encoder_writes_decodes_as_the_number_it_is():
    """FORMAT.md: −2^(bits−1), and with `levels` others too; an infinity only next to the largest float."""
    c = build(CodecConfig(bits=2), Layout(("v",), ((4,),)))
    for scale, value in ((1.0, -2.0), (1.7e38, -3.4e38), (1.8e38, float("-inf"))):
        payload = np.append(np.array([scale], "<f4").view(np.uint8), np.uint8(0b10))
        out = torch.zeros(4)
        c.decode(payload, out, 7)
        assert out.tolist() == [pytest.approx(value), 0, 0, 0]


class Operations(TorchDispatchMode):
    """The names of torch's operations that run under it."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func))
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(
    "config",
    [{"bits": 4}, {"bits": 3, "scale": "l2", "bucket": "tensor"}, {"codec": "sign"}, {"codec": "affine"}],
)
def test_calls_of_the_packing_codecs_allocate_nothing(config):
    """Python and numpy: in 50 rounds less than one small array a call would take; torch: views and out= alone."""
    c, x, acc = build(CodecConfig(**config), LAYOUT), gaussian(LAYOUT.elements), torch.zeros(LAYOUT.elements)
    payload, x_hat = np.zeros(c.payload_bytes(), np.uint8), torch.zeros(LAYOUT.elements)

    def rounds() -> None:
        for key in range(50):
            c.encode(x, payload, key)
            c.decode(payload, acc, key)
            c.accumulate(payload, acc, 0.5, key)
            c.encode_difference(x, x_hat, payload, key)

    rounds()
    tracemalloc.start()
    rounds()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000
    with Operations() as operations:
        rounds()
    assert operations.names <= {"aten.detach.default", "aten.sub.out"}  # detach: a view, for numpy


def test_measured_deltas_are_the_ones_known_for_gaussian_data():
    """1 − δ on 10^5 Gaussian values: linf per 512 at 4 bits 0.036, at 8 bits 1e-4; l2 per tensor is none."""
    layout = Layout(("v",), ((100_000,),))
    x = gaussian(100_000)

    def error(**settings):
        return relative_error(build(CodecConfig(**settings), layout), x, 5)

    assert error(bits=4) == pytest.approx(0.036, rel=0.1)
    assert error(bits=8) == pytest.approx(1e-4, rel=0.2)
    assert error(bits=2) > 1
    assert error(bits=4, scale="l2", bucket="tensor") > 10


def test_a_contraction_is_measured_where_none_is_guaranteed():
    """Neither has a guarantee; on a Gaussian vector affine at one bit contracts, for it keeps the largest element."""
    layout = Layout(("v",), ((1, 10_000),))
    affine = build(CodecConfig(codec="affine", bits=1), layout)
    assert affine.delta() == 0
    assert contraction_warning(affine) is None
    said = contraction_warning(build(CodecConfig(bits=4, scale="l2", bucket="tensor"), layout))
    assert said is not None
    assert "codec qsgd at 4 bits is no contraction" in said


def test_codes_are_really_packed():
    layout = Layout(("v",), ((1024,),))
    for bits in range(1, 17):
        assert build(CodecConfig(bits=bits), layout).payload_bytes() == 2 * 4 + 1024 * bits // 8
    assert build(CodecConfig(codec="sign"), layout).payload_bytes() == 2 * 4 + 128
    assert build(CodecConfig(codec="topk", fraction=0.25), layout).payload_bytes() == 256 * 8
    assert build(CodecConfig(codec="randk", fraction=0.25), layout).payload_bytes() == 256 * 4


@pytest.mark.parametrize(
    ("classes", "sizes"), [(2, (117_128, 29_924, 15_380, 8_108)), (10, (126_376, 32_260, 16_564, 8_716))]
)
def test_the_papers_message_sizes_for_both_cnns_exactly(classes, sizes):
    """By the formula, and as real payloads of the affine codec."""
    tensors = [*CNN_2[:-2], ("l", (classes, 288)), ("lb", (classes,))]
    layout = Layout(tuple(n for n, _ in tensors), tuple(s for _, s in tensors))
    assert paper_message_bytes(layout, CodecConfig(codec="identity")) == sizes[0]
    assert build(CodecConfig(codec="identity"), layout).payload_bytes() == sizes[0]
    for bits, size in zip((8, 4, 2), sizes[1:], strict=True):
        config = CodecConfig(codec="affine", bits=bits)
        assert paper_message_bytes(layout, config) == size
        c = build(config, layout)
        assert c.payload_bytes() == size == len(encoded(c, gaussian(layout.elements)))
        assert paper_message_bytes(layout, CodecConfig(codec="qsgd", bits=bits)) == size


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
        assert len(two._cpu._shares) == 2
        assert encoded(one, x).tobytes() == encoded(two, x).tobytes()
        assert torch.equal(decoded(one, x), decoded(two, x))


@pytest.mark.parametrize("bucket", [512, 5, "layer"])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_threads_give_affines_bytes_of_one_and_each_float_tensor_once(monkeypatch, bits, bucket):
    monkeypatch.setattr(plan, "ELEMENTS_PER_THREAD", 1000)
    shapes = ((1001, 3), (7,), (50, 100), (1, 4099), (2000,), (3, 1))
    layout = Layout(tuple("abcdef"), shapes)
    x = gaussian(layout.elements)
    x[3100:3200] *= 1e-43  # buckets whose scale needs a lift
    config = CodecConfig(codec="affine", bits=bits, bucket=bucket)
    one, *more = (build(config, layout, threads=t) for t in (1, 2, 3, 5))
    for many in more:
        assert encoded(one, x).tobytes() == encoded(many, x).tobytes()
        assert torch.equal(decoded(one, x), decoded(many, x))
        sums = [x.clone(), x.clone()]
        for codec, total in zip((one, many), sums, strict=True):
            codec.accumulate(encoded(codec, x), total, 0.5, 0)
        assert torch.equal(*sums)


def test_golden_bytes():
    """Written by hand from the document: a change of these is a change of the wire format.

    v = (1, -1, 0, 1): scale 1.0 (00 00 80 3f), s = 7, levels 7, -7, 0, 7 exactly (no draw can move them), as
    two's-complement nibbles 7, 9, 0, 7, the first in the low half of its byte.
    """
    layout = Layout(("v",), ((4,),))
    x = torch.tensor([1.0, -1.0, 0.0, 1.0])
    assert encoded(build(CodecConfig(bits=4), layout), x).tobytes().hex() == "0000803f9770"
    assert encoded(build(CodecConfig(bits=2), layout), x).tobytes().hex() == "0000803f4d"
    assert encoded(build(CodecConfig(bits=8), layout), x).tobytes().hex() == "0000803f7f81007f"
    assert encoded(build(CodecConfig(codec="sign"), layout), x).tobytes().hex() == "0000403f02"
    topk = build(CodecConfig(codec="topk", fraction=0.5), layout)
    assert (
        encoded(topk, torch.tensor([0.0, -2.0, 0.5, 1.0])).tobytes().hex()
        == "000000c00000803f0100000003000000"
    )
    affine = build(CodecConfig(codec="affine", bits=4), Layout(("w", "b"), ((3, 1), (1,))))
    made = encoded(affine, torch.tensor([-1.0, 0.0, 2.0, 5.0])).tobytes()
    assert made == np.array([0.2]).tobytes() + bytes([5, 0, 0, 0]) + np.float32(5).tobytes() + bytes(
        [0x50, 0x0F]
    )


def test_ids_and_names_on_the_wire_are_fixed_for_ever():
    ids = {name: kind.id for name, kind in CODECS.items()}
    assert ids == {"identity": 1, "qsgd": 2, "affine": 3, "topk": 4, "randk": 5, "sign": 6}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"bits": 17}, "qsgd takes 1 to 16"),
        ({"codec": "affine", "bits": 9}, "affine takes 1 to 8"),
        ({"codec": "topk"}, "needs fraction"),
        ({"codec": "randk", "fraction": 0.0}, "greater than 0"),
        ({"bucket": 0}, "at least 1"),
        ({"codec": "sign", "levels": 4}, "levels has no effect"),
        ({"bits": 8, "levels": 5}, "bits = 8 has no effect beside levels = 5"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        CodecConfig(**settings)


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


@pytest.mark.parametrize("name", CONFIGS)
def test_of_several_messages_none_is_added_where_one_can_not_be_decoded(name):
    c = codec(name)
    payloads = [encoded(c, gaussian(LAYOUT.elements, seed)) for seed in range(3)]
    acc = gaussian(LAYOUT.elements, 9)
    for bad in (payloads[1][:-1], np.full_like(payloads[1], 0xFF)):
        with pytest.raises(PayloadError):
            c.accumulate_all([payloads[0], bad, payloads[2]], acc, [1.0] * 3, [7] * 3)
        assert torch.equal(acc, gaussian(LAYOUT.elements, 9))
