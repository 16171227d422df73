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
