"""What affine alone promises: refused scales, threads."""

import numpy as np
import pytest
import torch

from qafel_mpi.codecs import CodecConfig, Layout, PayloadError, build
from qafel_mpi.kernels import plan
from qafel_mpi.testing.codecs import decoded, encoded
from qafel_mpi.testing.strategies import gaussian


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
