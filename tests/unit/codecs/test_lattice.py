"""lattice: decoding near a reference, and buckets that have wrapped around."""

import numpy as np
import pytest
import torch

from qafel_mpi.codecs import CodecConfig, Layout, build
from qafel_mpi.codecs.lattice import Lattice
from qafel_mpi.codecs.near import decode_near
from qafel_mpi.kernels.reference_lattice import decode_lattice, encode_lattice
from qafel_mpi.testing import NearCodecContract
from qafel_mpi.testing.codecs import encoded
from qafel_mpi.testing.strategies import gaussian

SETTINGS = {
    "8 bits": {"bits": 8, "bucket": 64, "spacing": 0.01},
    "5 bits": {"bits": 5, "bucket": 100, "spacing": 0.125},
    "16 bits": {"bits": 16, "bucket": "tensor", "spacing": 1e-4},
}


class TestContract(NearCodecContract):
    @pytest.fixture(scope="class", params=SETTINGS)
    @classmethod
    def make(cls, request):
        settings = CodecConfig(codec="lattice", **SETTINGS[request.param])
        return lambda layout, dtype: build(settings, layout, dtype)

    def reach(self, codec):
        return codec.spacing * (2**codec.bits - 1) / 2, codec.spacing / 2


def lattice(d: int, **settings) -> Lattice:
    made = build(CodecConfig(codec="lattice", **settings), Layout(("w",), ((d,),)))
    assert isinstance(made, Lattice)
    return made


def test_three_numbers_by_hand():
    """s = ½, q = 4: x = (10, 1.1, −3) are the points 20, 2, −6, of which 0, 2, 2 are sent.

    Near (9.4, 1.6, −2.6), which is 18.8, 3.2, −5.2 points: 18.8 − 0 is 4.7 wraps, so 5·4 + 0 = 20; (3.2 − 2)/4 = 0.3,
    so 2; (−5.2 − 2)/4 = −1.8, so −2·4 + 2 = −6: (10, 1, −3).
    Near (0, 0, 0) the points would be 0, and −2 or 2.
    """
    codec, out = lattice(3, bits=2, spacing=0.5, bucket=8), torch.zeros(3)
    payload = encoded(codec, torch.tensor([10, 1.1, -3]))
    assert payload[4:].tolist() == [0b101000]
    assert codec.decode_near(payload, torch.tensor([9.4, 1.6, -2.6]), out, 7) == 0
    assert out.tolist() == [10, 1, -3]
    assert codec.decode_near(payload, torch.zeros(3), out, 7) == 1
    assert out.tolist() == [0, 0, 0]


@pytest.mark.parametrize("bits", [1, 2, 7, 8, 13, 16])
@pytest.mark.parametrize("d", [1, 63, 64, 1000])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_kernels_give_the_bytes_and_numbers_of_the_formulas(bits, d, dtype):
    codec, key = lattice(d, bits=bits, spacing=0.003, bucket=64), 0xFEDCBA9876543210
    x = (3 * gaussian(d, bits)).numpy().astype(dtype)
    settings = {"spacing": 0.003, "bits": bits, "bucket": 64, "key": key}
    payload = encoded(codec, torch.from_numpy(x), key)
    assert payload.tobytes() == encode_lattice(x, **settings)
    near = (x + 0.5 * 0.003 * 2**bits * np.random.default_rng(d).uniform(-1, 1, d)).astype(dtype)
    out = torch.zeros(d, dtype=torch.float32 if dtype == "f4" else torch.float64)
    wrapped = codec.decode_near(payload, torch.from_numpy(near), out, key)
    values, said = decode_lattice(payload.tobytes(), near, **settings)
    assert (out.numpy() == values).all()
    assert wrapped == said


def test_wraps_that_cancel_are_found_too():
    """Two elements that wrap in opposite ways, in 2,000 payloads: the check is not their plain sum."""
    codec, out = lattice(64, bits=4, spacing=0.1, bucket=64), torch.zeros(64)
    for key in range(2000):
        x, near = torch.zeros(64), torch.zeros(64)
        near[3], near[40] = 1.6, -1.6
        assert codec.decode_near(encoded(codec, x, key), near, out, key) == 1
        assert torch.equal(out, near)
    assert codec.wrapped == 2000


def test_a_codec_without_need_of_a_reference_is_decoded_as_ever():
    codec = build(CodecConfig(codec="identity"), Layout(("w",), ((3,),)))
    x, out = torch.tensor([1.0, 2, 3]), torch.zeros(3)
    assert decode_near(codec, encoded(codec, x), torch.full((3,), 9.0), out, 7) == 0
    assert torch.equal(out, x)
