"""Our codecs keep the contract of qafel_mpi.testing, and what only some of them promise beside it."""

import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qafel_mpi.codecs import CODECS, Codec, CodecConfig, Layout, PayloadError, build
from qafel_mpi.codecs.entropy import Coded, Zstd
from qafel_mpi.codecs.qsgd import QSGD
from qafel_mpi.testing import CodecContract
from qafel_mpi.testing.codecs import LAYOUT, encoded
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
    **{f"eden {b} bits": {"codec": "eden", "bits": b, "bucket": 128} for b in range(1, 5)},
    "eden least squares": {"codec": "eden", "bits": 1, "scale": "least-squares"},
    "eden twice": {"codec": "eden", "bits": 2, "rotations": 2, "scale": "least-squares"},
    "eden shared": {"codec": "eden", "bits": 2, "rotation": "shared"},
    "eden zstd": {"codec": "eden", "bits": 4, "entropy": "zstd"},
    "lattice": {"codec": "lattice", "bits": 8, "bucket": 64, "spacing": 0.05},
    "lattice 3": {"codec": "lattice", "bits": 3, "bucket": "tensor", "spacing": 1.5},
    "fixed": {"codec": "fixed", "bits": 4, "spacing": 0.5},
    "fixed 8": {"codec": "fixed", "bits": 8, "spacing": 0.02, "entropy": "zstd"},
    **{
        f"fp4 {form} {rounding}": {"codec": "fp4", "format": form, "rounding": rounding}
        for form in ("mxfp4", "nvfp4")
        for rounding in ("stochastic", "nearest")
    },
    "rotated qsgd": {"bits": 2, "transform": "rotation"},
    "rotated topk": {"codec": "topk", "fraction": 0.2, "transform": "rotation", "entropy": "zstd"},
}


def codec(name: str, layout: Layout = LAYOUT, dtype: torch.dtype = torch.float32):
    return build(CodecConfig(**CONFIGS[name]), layout, dtype)


class TestContract(CodecContract):
    @pytest.fixture(scope="class", params=CONFIGS)
    @classmethod
    def make(cls, request):
        return lambda layout, dtype: codec(request.param, layout, dtype)

    def damaged(self, codec, changes):
        """With zstd a good frame around a damaged payload: a damaged frame is found by zstd itself."""
        inner = codec.inner if isinstance(codec, Coded) else codec
        payload = overwritten(encoded(inner, gaussian(LAYOUT.elements)), changes)
        if inner is codec:
            return payload
        codec._raw[:], out = payload, np.zeros(codec.payload_bytes(), np.uint8)
        return out[: codec.compress(payload.size, out)]


@pytest.mark.parametrize("name", CONFIGS)
def test_codecs_that_draw_give_other_bytes_for_another_key_and_others_do_not(name):
    c, x = codec(name), gaussian(LAYOUT.elements)
    different = encoded(c, x, key=7).tobytes() != encoded(c, x, key=8).tobytes()
    draws = (
        name.startswith(("qsgd", "randk", "zstd", "eden", "rotated", "lattice", "fixed"))
        or "stochastic" in name
    )
    assert different == (draws and "32" not in name)


REFUSING = [name for name in CONFIGS if "lattice" not in name]  # which refuses no payload of the right length


@pytest.mark.parametrize("name", REFUSING)
def test_what_damage_can_be_seen_is_refused_and_codes_are_not_looked_at(name):
    c = codec(name)
    with pytest.raises(PayloadError):
        c.validate(TestContract().damaged(c, [(0.0, b"\xff" * 8)]))
    if name not in (
        "identity",
        "qsgd 32 bits",
        "topk",
        "randk",
        "rotated topk",
    ):  # whose last bytes are no codes
        c.validate(TestContract().damaged(c, [(1.0, b"\x00")]))


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
    assert ids == {
        "identity": 1,
        "qsgd": 2,
        "affine": 3,
        "topk": 4,
        "randk": 5,
        "sign": 6,
        "eden": 7,
        "fp4": 10,
        "lattice": 12,
        "fixed": 13,
    }


@pytest.mark.parametrize("name", REFUSING)
def test_of_several_messages_none_is_added_where_one_can_not_be_decoded(name):
    c = codec(name)
    payloads = [encoded(c, gaussian(LAYOUT.elements, seed)) for seed in range(3)]
    acc = gaussian(LAYOUT.elements, 9)
    for bad in (payloads[1][:-1], np.full_like(payloads[1], 0xFF)):
        with pytest.raises(PayloadError):
            c.accumulate_all([payloads[0], bad, payloads[2]], acc, [1.0] * 3, [7] * 3)
        assert torch.equal(acc, gaussian(LAYOUT.elements, 9))


class Careless(Codec):
    """One of the user's own, which takes whatever floats there are."""

    name, unbiased, bits = "careless", True, 32

    def payload_bytes(self):
        return 4 * self.layout.elements

    def encode(self, x, out, key):
        out[: self.payload_bytes()] = x.numpy().view(np.uint8)
        return self.payload_bytes()

    def _decode(self, valid, acc, weight, key, *, assign):
        values = torch.from_numpy(valid.view("<f4").copy())
        acc.copy_(values) if assign else acc.add_(values, alpha=weight)


class Loud(QSGD):
    """Another one, which makes something else of a payload that its parent has found good."""

    def _decode(self, valid, acc, weight, key, *, assign):
        super()._decode(valid, acc, weight, key, assign=assign)
        acc[3] = float("inf")


def careless(key: int):
    c = Careless(LAYOUT)
    payload = encoded(c, gaussian(LAYOUT.elements))
    payload.view("<f4")[key % LAYOUT.elements] = float("nan")
    return c, payload


def loud(key: int):
    c = Loud(LAYOUT)
    return c, encoded(QSGD(LAYOUT), gaussian(LAYOUT.elements))


@pytest.mark.parametrize("make", [careless, loud])
@pytest.mark.parametrize("compressed", [False, True])
def test_what_a_codec_of_ones_own_decodes_is_looked_at_before_it_is_used(make, compressed):
    c, payload = make(7)
    assert not c.decodes_finite
    if compressed:
        c, frame = Coded(c, Zstd()), np.zeros(2 * payload.size, np.uint8)
        c._raw[:] = payload
        payload = frame[: c.compress(payload.size, frame)].copy()
    acc = gaussian(LAYOUT.elements, 3)
    for decode in (
        lambda: c.decode(payload, acc, 7),
        lambda: c.accumulate(payload, acc, 1.0, 7),
        lambda: c.accumulate_all([payload, payload], acc, [1.0, 1.0], [7, 7]),
    ):
        with pytest.raises(PayloadError, match="decodes to a number that is not finite"):
            decode()
    assert torch.equal(acc, gaussian(LAYOUT.elements, 3))


def test_a_difference_that_decodes_to_no_numbers_moves_no_hidden_state():
    x_hat = torch.zeros(LAYOUT.elements)
    x, out = torch.full((LAYOUT.elements,), float("inf")), np.zeros(4 * LAYOUT.elements, np.uint8)
    with pytest.raises(PayloadError, match="not finite"):
        Careless(LAYOUT).encode_difference(x, x_hat, out, 7)
    assert not x_hat.any()
