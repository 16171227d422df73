"""Message sizes: the paper's exactly, and payloads that are really packed."""

import pytest

from qafel_mpi.codecs import CodecConfig, Layout, build
from qafel_mpi.codecs.sizes import paper_message_bytes
from qafel_mpi.testing.codecs import encoded
from qafel_mpi.testing.strategies import gaussian

CNN_2 = (
    [("w0", (32, 3, 3, 3)), ("b0", (32,))]
    + [(f"w{i}", (32, 32, 3, 3)) for i in (1, 2, 3)]
    + [(f"b{i}", (32,)) for i in (1, 2, 3)]
    + [("g", (32,)), ("h", (32,)), ("l", (2, 288)), ("lb", (2,))]
)


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


# w has 600 elements in 2 dimensions, v 77, and b 20 in one.
SMALL = Layout(("w", "b", "v"), ((20, 30), (20,), (7, 11)))


@pytest.mark.parametrize(
    ("config", "size"),
    [
        # 677·b/8 of w and v, 12 each, and 4·20 of b.
        (CodecConfig(codec="eden", bits=1), 84.625 + 24 + 80),
        (CodecConfig(codec="eden", bits=4, bucket=128), 338.5 + 24 + 80),
        (CodecConfig(codec="fp4"), 338.5 + 24 + 80),
        (CodecConfig(codec="fp4", format="mxfp4"), 338.5 + 24 + 80),
        (CodecConfig(codec="lattice", bits=8, spacing=0.1), 677 + 24 + 80),
        (CodecConfig(codec="lattice", bits=2, spacing=0.1), 169.25 + 24 + 80),
        (CodecConfig(codec="fixed", bits=6, spacing=0.1), 507.75 + 24 + 80),
        # log₂ 5 = 2.321928 bits.
        (CodecConfig(levels=5), 677 * 2.321928094887362 / 8 + 24 + 80),
    ],
)
def test_the_papers_formula_counts_a_quantizer_s_bits_whatever_it_is(config: CodecConfig, size: float):
    assert paper_message_bytes(SMALL, config) == pytest.approx(size, rel=1e-12)


def test_with_rules_each_codec_counts_for_its_own_tensors():
    """w at 2 bits: 600·2/8 + 12; v at 8 bits: 77 + 12; half of b's 20 elements, 4 bytes each: 40."""
    rules = [
        {"match": "v", "codec": "qsgd", "bits": 8},
        {"max_rank": 1, "codec": "randk", "fraction": 0.5},
    ]
    config = CodecConfig.model_validate({"codec": "eden", "bits": 2, "rules": rules})
    assert paper_message_bytes(SMALL, config) == 162 + 89 + 40
    exact = CodecConfig.model_validate(
        {"codec": "eden", "bits": 2, "rules": [{"max_elements": 77, "codec": "identity"}]}
    )
    assert paper_message_bytes(SMALL, exact) == 162 + 4 * (77 + 20)
