"""The contract of a codec that is decoded against a reference (qafel_mpi.codecs.near.NearCodec)."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import pytest
import torch

from qafel_mpi.codecs import PayloadError
from qafel_mpi.codecs.near import NearCodec
from qafel_mpi.testing.codecs import KEY, LAYOUT, CodecContract, MakeCodec, decoded, encoded
from qafel_mpi.testing.strategies import gaussian


class NearCodecContract(CodecContract):
    """As CodecContract, and `reach`: how far from its reference each element may be, and how exact it is then."""

    @abstractmethod
    def reach(self, codec: NearCodec) -> tuple[float, float]:
        """(|x − reference| that each element of any vector may have, |Q(x) − x| that it has at most then)."""

    def test_near_its_reference_a_vector_of_any_size_is_as_exact(self, codec: NearCodec) -> None:
        far, error = self.reach(codec)
        for size in (0.0, 1.0, 1e3):
            x = size * gaussian(LAYOUT.elements, 1)
            x = x.double().round(decimals=9).float()
            reference = x + 0.99 * far * (
                2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) - 1
            )
            out = torch.full_like(x, float("nan"))
            assert codec.decode_near(encoded(codec, x), reference, out, KEY) == 0
            assert float((out - x).abs().max()) <= error + 2**-22 * float(x.abs().max())

    def test_what_is_too_far_is_counted_and_decoded_as_the_reference(self, codec: NearCodec) -> None:
        x, (far, error) = gaussian(LAYOUT.elements), self.reach(codec)
        reference = x.clone()
        reference[5] += 40.3 * far
        before, out = codec.wrapped, torch.full_like(x, float("nan"))
        assert codec.decode_near(encoded(codec, x), reference, out, KEY) == 1
        assert codec.wrapped == before + 1
        assert out[5] == reference[5]
        assert float((out - reference).abs().max()) <= error + 1e-6

    def test_the_reference_may_be_where_it_is_decoded_to(self, codec: NearCodec) -> None:
        x, out = gaussian(LAYOUT.elements), torch.full((LAYOUT.elements,), float("nan"))
        reference, payload = x + 0.3 * self.reach(codec)[0], encoded(codec, x)
        codec.decode_near(payload, reference, out, KEY)
        codec.decode_near(payload, reference, reference, KEY)
        assert torch.equal(out, reference)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_without_a_reference_it_is_decoded_near_zero(self, make: MakeCodec, dtype: torch.dtype) -> None:
        codec, x = make(LAYOUT, dtype), 0.1 * gaussian(LAYOUT.elements, dtype=dtype)
        assert isinstance(codec, NearCodec)
        out = torch.full_like(x, float("nan"))
        codec.decode_near(encoded(codec, x), torch.zeros_like(x), out, KEY)
        assert torch.equal(out, decoded(codec, x))

    def test_what_can_not_be_decoded_is_refused_near_a_reference_too(self, codec: NearCodec) -> None:
        out = torch.full((LAYOUT.elements,), 3.0)
        with pytest.raises(PayloadError):
            codec.decode_near(np.zeros(codec.payload_bytes() + 1, np.uint8), torch.zeros_like(out), out, KEY)
        assert (out == 3).all()
