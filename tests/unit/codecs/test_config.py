"""Settings of codecs that make no sense."""

import pytest

from qafel_mpi.codecs import CodecConfig


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"bits": 17}, "qsgd takes 1 to 16"),
        ({"codec": "affine", "bits": 9}, "affine takes 1 to 8"),
        ({"codec": "topk"}, "needs fraction"),
        ({"codec": "randk", "fraction": 0.0}, "greater than 0"),
        ({"bucket": 0}, "from 1 to 1099511627776 elements"),
        ({"codec": "sign", "levels": 4}, "levels has no effect"),
        ({"bits": 8, "levels": 5}, "bits has no effect with levels = 5, only without levels"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        CodecConfig(**settings)
