"""One contract for all codecs: sizes known before, errors that are named, the same bits however Q(x) is added."""

import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from qafel_mpi.codecs import CODECS, CodecConfig, Layout, NonFiniteError, PayloadError, build
from qafel_mpi.codecs.bucketed import Bucketed
from qafel_mpi.codecs.measure import contraction_warning, measure_delta, relative_error
from qafel_mpi.codecs.sizes import paper_message_bytes
from qafel_mpi.kernels import plan, reference
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.kernels.plan import ELEMENTS_PER_THREAD

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
LAYOUT = Layout(("a.weight", "a.bias", "b.weight"), ((20, 30), (20,), (7, 11)))
CNN_2 = (
    [("w0", (32, 3, 3, 3)), ("b0", (32,))]
    + [(f"w{i}", (32, 32, 3, 3)) for i in (1, 2, 3)]
    + [(f"b{i}", (32,)) for i in (1, 2, 3)]
    + [("g", (32,)), ("h", (32,)), ("l", (2, 288)), ("lb", (2,))]
)


def codec(name: str, layout: Layout = LAYOUT, dtype: torch.dtype = torch.float32):
    return build(CodecConfig(**CONFIGS[name]), layout, dtype)


def gaussian(d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def encoded(c, x: torch.Tensor, key: int = 7) -> np.ndarray:
    out = np.zeros(c.payload_bytes(), np.uint8)
    return out[: c.encode(x, out, key)]


def decoded(c, x: torch.Tensor, key: int = 7) -> torch.Tensor:
    out = torch.full_like(x, float("nan"))
    c.decode(encoded(c, x, key), out, key)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CONFIGS)
def test_decode_accumulate_and_difference_agree_bit_for_bit(name, dtype):
    c = codec(name, dtype=dtype)
    x = gaussian(LAYOUT.elements, dtype=dtype)
    payload = encoded(c, x)
    c.validate(payload)
    assert len(payload) == c.payload_bytes() or c.flags
    q, acc = decoded(c, x), gaussian(LAYOUT.elements, 1, dtype)
    expected = acc + q
    c.accumulate(payload, acc, 1.0, 7)
    assert torch.equal(acc, expected)
    base = gaussian(LAYOUT.elements, 2, dtype)
    moved, out = base.clone(), np.zeros(c.payload_bytes(), np.uint8)
    size = c.encode_difference(x, moved, out, 7)
    difference = torch.full_like(x, float("nan"))
    c.decode(out[:size], difference, 7)
    assert torch.equal(moved, base + difference)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_weight_scales_what_is_added(name):
    c = codec(name)
    x, acc = gaussian(LAYOUT.elements), torch.zeros(LAYOUT.elements)
    c.accumulate(encoded(c, x), acc, 0.25, 7)
    assert torch.allclose(acc, 0.25 * decoded(c, x), rtol=1e-6)


@given(
    name=st.sampled_from(list(CONFIGS)),
    d=st.integers(1, 1500),
    exponent=st.integers(-44, 37),
    zeros=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
@settings(max_examples=300)
def test_any_length_and_any_finite_values_work(name, d, exponent, zeros, seed):
    """d = 1, lengths that are multiples of nothing, zero vectors, denormals, huge values."""
    rows = max(1, d // 3)
    layout = Layout(("w", "b"), ((rows, 1), (d - rows,)))
    x = (gaussian(d, seed).double().clamp(-3, 3) * 10.0**exponent).float()
    x[gaussian(d, seed + 1).abs() < 2 * zeros] = 0
    c = codec(name, layout)
    payload = encoded(c, x)
    c.validate(payload)
    q = decoded(c, x)
    assert torch.isfinite(q).all()
    if not x.any():
        assert not q.any()


@pytest.mark.parametrize("name", CONFIGS)
def test_payloads_depend_on_input_and_key_alone(name):
    c, x = codec(name), gaussian(LAYOUT.elements)
    again = encoded(codec(name), x.clone())
    assert encoded(c, x).tobytes() == again.tobytes()
    different = encoded(c, x, key=8).tobytes() != again.tobytes()
    assert different == (name.startswith(("qsgd", "randk", "zstd")) and "32" not in name)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_an_error_that_names_the_tensor(name, bad):
    x = gaussian(LAYOUT.elements)
    x[600 + 13] = bad
    c = codec(name)
    with pytest.raises(NonFiniteError, match=r"'a\.bias', element 13") as error:
        encoded(c, x)
    assert error.value.tensor == "a.bias"


@pytest.mark.parametrize("name", CONFIGS)
def test_payloads_of_a_wrong_length_are_refused(name):
    c = codec(name)
    with pytest.raises(PayloadError):
        c.validate(np.zeros(c.payload_bytes() + 1, np.uint8))
    with pytest.raises(ValueError, match="nothing to encode"):
        codec(name, Layout(("empty",), ((0, 3),)))


def overwritten(c, changes: list[tuple[float, bytes]]) -> np.ndarray:
    """A payload of c with these bytes (place in it, from 0 to 1) in place of its own; in good frames with zstd."""
    inner = getattr(c, "inner", c)
    payload = encoded(inner, gaussian(LAYOUT.elements)).copy()
    for place, data in changes:
        at = int(place * (payload.size - len(data)))
        payload[at : at + len(data)] = np.frombuffer(data, np.uint8)
    if inner is c:
        return payload
    c._raw[:], out = payload, np.zeros(c.payload_bytes(), np.uint8)
    return out[: c.compress(payload.size, out)]


DAMAGE = st.tuples(
    st.floats(0, 1) | st.just(0.0), st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff", b"\x7f"])
)


@given(changes=st.lists(DAMAGE, min_size=1, max_size=4))
@settings(max_examples=50)
@pytest.mark.parametrize("name", CONFIGS)
def test_damaged_payloads_are_refused_or_decode_to_finite_numbers(name, changes):
    """And where they are refused, nothing of them is decoded. FORMAT.md has the one exception."""
    c = codec(name)
    payload, out = overwritten(c, changes), torch.full((LAYOUT.elements,), 3.0)
    try:
        c.decode(payload, out, 7)
    except PayloadError:
        assert (out == 3).all()
        return
    assert torch.isfinite(out).all() or (not torch.isnan(out).any() and has_huge_scale(c, payload))


def has_huge_scale(c, payload: np.ndarray) -> bool:
    """Whether a code that no encoder writes can stand for an infinity here."""
    bucketed, raw = getattr(c, "inner", c), c.validate(payload)
    if not isinstance(bucketed, Bucketed) or bucketed.bits == 1:
        return False
    largest = raw[: 4 * bucketed.plan.buckets].view("<f4").max()
    return largest > np.finfo(np.float32).max * bucketed.s / 2.0 ** (bucketed.bits - 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_damage_can_be_seen_is_refused_and_codes_are_not_looked_at(name):
    c = codec(name)
    with pytest.raises(PayloadError):
        c.validate(overwritten(c, [(0.0, b"\xff" * 8)]))
    if name not in ("identity", "qsgd 32 bits", "topk", "randk"):  # whose last bytes are no codes
        c.validate(overwritten(c, [(1.0, b"\x00")]))


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


UNBIASED = [name for name in CONFIGS if codec(name).unbiased]


@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_codecs_average_to_the_input(name):
    """2,000 keys: each coordinate's mean is within 6 standard errors (a false alarm: below 1e-5 for all 700).

    The bias of 2^-17 levels that 16 random bits may leave is far below that. A value so near a level that it is
    hardly ever rounded away has no standard error to measure: 10/n of the largest value is allowed beside.
    """
    c, n = codec(name), 2000
    x = gaussian(LAYOUT.elements)
    total, squares = torch.zeros_like(x).double(), torch.zeros_like(x).double()
    for key in range(n):
        q = decoded(c, x, key=derive(0, Stream.UPLINK, 0, key)).double()
        total += q
        squares += q * q
    mean = total / n
    error = ((squares / n - mean**2).clamp(min=0) / n).sqrt()
    assert ((mean - x).abs() <= 6 * error + 10 / n * x.abs().max()).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_definition_2_1_holds_for_the_delta_that_a_codec_guarantees(name):
    """Mean relative error over 200 keys, on Gaussian, heavy-tailed and constant data and where one element is large,
    against 1 − δ (5% for chance)."""
    c = codec(name)
    one = torch.full((LAYOUT.elements,), 0.3)
    one[5] = 1
    for x in (gaussian(LAYOUT.elements), gaussian(LAYOUT.elements, 3) ** 5, one, torch.ones_like(one)):
        error = 1 - measure_delta(c, [x] * 200, seed=1)
        assert error <= (1 - c.delta()) * 1.05 + 1e-12


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CONFIGS)
def test_several_messages_in_one_call_are_those_of_one_at_a_time_to_the_bit(name, dtype):
    c = codec(name, dtype=dtype)
    xs = torch.stack([gaussian(LAYOUT.elements, seed, dtype) for seed in range(5)])
    keys = np.array([7, 8, 2**63, 2**64 - 1, 0], dtype=np.uint64)
    alone = [encoded(c, x, key) for x, key in zip(xs, keys.tolist(), strict=True)]
    rows = np.zeros((5, c.payload_bytes()), np.uint8)
    for outs in (rows, [np.zeros(c.payload_bytes() + 3, np.uint8) for _ in range(5)]):
        sizes = c.encode_all(xs, outs, keys)
        assert [bytes(out[:n]) for out, n in zip(outs, sizes, strict=True)] == [bytes(p) for p in alone]
    weights = [1.0, 0.5, 0.25, 1 / 3, 2.0]
    together, one_by_one = (gaussian(LAYOUT.elements, 9, dtype) for _ in range(2))
    c.accumulate_all(alone, together, weights, keys.tolist())
    for payload, weight, key in zip(alone, weights, keys.tolist(), strict=True):
        c.accumulate(payload, one_by_one, weight, key)
    assert torch.equal(together, one_by_one)


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


@pytest.mark.parametrize("name", CONFIGS)
def test_of_several_vectors_one_that_is_not_finite_is_named(name):
    c = codec(name)
    xs = torch.stack([gaussian(LAYOUT.elements, seed) for seed in range(3)])
    xs[1, 605] = float("inf")
    with pytest.raises(NonFiniteError, match=r"'a.bias', element 5 is inf"):
        c.encode_all(xs, np.zeros((3, c.payload_bytes()), np.uint8), np.arange(3, dtype=np.uint64))
