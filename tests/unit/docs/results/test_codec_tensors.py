"""docs/results/codec_tensors.py: what a codec makes of each tensor of an update."""

import pytest
import torch

from docs.results.codec_tensors import by_tensor
from qafel_mpi.codecs import CodecConfig, Layout

SHAPES = (
    (128, 64),
    (64,),
    (6, 64),
)  # the first matrix fills 16 buckets of 512, which is one of eden's blocks


def layout() -> Layout:
    return Layout(("a.weight", "a.bias", "b.weight"), SHAPES)


def updates() -> list[torch.Tensor]:
    """Two, with a bias a hundred times as large as the matrix that follows it in its bucket."""
    draws = torch.Generator().manual_seed(0)
    found = [torch.randn(8640, generator=draws) for _ in range(2)]
    for one in found:
        one[8192:8256] *= 100
    return found


def test_a_large_tensor_drowns_a_small_one_of_its_bucket_and_a_rule_for_it_mends_that():
    eden = {"codec": "eden", "bits": 2}
    rules = [{"max_rank": 1, "codec": "eden", "bits": 4, "bucket": 128}]
    codecs = {"eden2": CodecConfig(**eden), "rules": CodecConfig.model_validate({**eden, "rules": rules})}
    first, bias, second = by_tensor(layout(), updates(), codecs)
    assert [one["name"] for one in (first, bias, second)] == ["a.weight", "a.bias", "b.weight"]
    assert bias["share"] == pytest.approx(0.987, abs=0.01)
    assert bias["root_mean_square"] == pytest.approx(100, rel=0.3)
    assert first["errors"]["eden2"] == pytest.approx(0.13, abs=0.03), "alone in its bucket: eden's own error"
    assert second["errors"]["eden2"] > 10, "the error is the bucket's, and the bucket is the bias"
    assert second["errors"]["rules"] == pytest.approx(0.13, abs=0.03)


def test_a_codec_without_error_has_none_on_any_tensor():
    found = by_tensor(layout(), updates(), {"float32": CodecConfig(codec="identity")})
    assert [one["errors"] for one in found] == [{"float32": 0.0}] * 3
    assert sum(one["share"] for one in found) == pytest.approx(1)
