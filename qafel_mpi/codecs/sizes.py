"""The paper's formula for a message's size, which its tables use; the bytes really sent are counted elsewhere."""

from __future__ import annotations

import math

from qafel_mpi.codecs import build_quantizer
from qafel_mpi.codecs.base import Layout
from qafel_mpi.codecs.config import CodecConfig, QuantizerConfig
from qafel_mpi.codecs.rules import parts_of


def paper_message_bytes(layout: Layout, codec: CodecConfig) -> float:
    """Size of one message as the authors count it.

    b/8 bytes per element of a tensor with 2 or more dimensions, 12 per such tensor (float64 scale, int32 zero
    point) and 4 per element of a 1-D tensor; identity: 4 per element. The paper gives no formula for sparse
    codecs: here a kept coordinate counts 4 bytes and its index, where it is sent (top-k), 4 more. sign counts
    as 1 bit, and eden and fp4 as their bits. qsgd with `levels` counts log2(levels) bits, as the paper's plots label
    it. A codec of the user's own counts the bytes of its payload. With rules each codec counts for its own tensors.
    """
    return sum(_message_bytes(part, own) for own, part in parts_of(codec, layout))


def _message_bytes(layout: Layout, codec: QuantizerConfig) -> float:
    if codec.own:
        return float(build_quantizer(codec, layout).payload_bytes())
    d = layout.elements
    if codec.codec == "identity" or (codec.codec == "qsgd" and codec.levels is None and codec.bits == 32):
        return 4.0 * d
    if codec.codec in ("topk", "randk"):
        assert codec.fraction is not None
        return max(1, int(codec.fraction * d)) * (8.0 if codec.codec == "topk" else 4.0)
    bits = 1.0 if codec.codec == "sign" else float(codec.bits)
    if codec.codec == "qsgd" and codec.levels is not None:
        bits = math.log2(codec.levels)
    wide = [size for size, shape in zip(layout.sizes, layout.shapes, strict=True) if len(shape) >= 2]
    return sum(wide) * bits / 8 + 12.0 * len(wide) + 4.0 * (d - sum(wide))
