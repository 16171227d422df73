"""Any bytes as a payload of any codec: a PayloadError and nothing decoded, or finite numbers; never more memory than
the codec's own sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from qafel_mpi.codecs import Codec, Layout, PayloadError, build
from qafel_mpi.codecs.config import CodecConfig
from tests.fuzz.bounds import bounded, inputs
from tests.fuzz.mutations import changed, changes

LAYOUT = Layout(("a.weight", "a.bias", "b.weight"), ((20, 30), (20,), (7, 11)))
SETTINGS: dict[str, dict[str, Any]] = {
    "identity": {},
    "qsgd": {"bits": 4},
    "qsgd 1 bit, l2, tensor": {"codec": "qsgd", "bits": 1, "scale": "l2", "bucket": "tensor"},
    "qsgd 5 levels, layers": {"codec": "qsgd", "levels": 5, "bucket": "layer"},
    "qsgd 16": {"codec": "qsgd", "bits": 16},
    "affine": {"bits": 8},
    "topk": {"fraction": 0.1},
    "randk": {"fraction": 0.1},
    "sign": {"bucket": 64},
    "lattice": {"bits": 6, "bucket": 64, "spacing": 0.1},
    "fixed": {"bits": 5, "spacing": 0.1},
    "lattice 11, tensor": {"codec": "lattice", "bits": 11, "bucket": "tensor", "spacing": 0.01},
}


def made(name: str, entropy: str, dtype: torch.dtype) -> Codec:
    given_ = {"codec": name.split()[0], **SETTINGS[name], "entropy": entropy}
    return build(CodecConfig.model_validate(given_), LAYOUT, dtype, threads=1)


CODECS = [
    made(name, entropy, dtype)
    for name in SETTINGS
    for entropy, dtype in (("none", torch.float32), ("zstd", torch.float32), ("none", torch.float64))
    if not (name.startswith("lattice") and entropy == "zstd")
]
X = torch.randn(LAYOUT.elements, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def encoded(codec: Codec) -> bytes:
    out = np.zeros(codec.payload_bytes(), np.uint8)
    return out[: codec.encode(X.to(codec.dtype), out, 7)].tobytes()


WHOLE = [encoded(codec) for codec in CODECS]
for codec_ in CODECS:  # compiled before memory is bounded
    codec_.decode(
        np.frombuffer(encoded(codec_), np.uint8), torch.zeros(LAYOUT.elements, dtype=codec_.dtype), 7
    )
    codec_.accumulate_all(
        [np.frombuffer(encoded(codec_), np.uint8)] * 2, X.to(codec_.dtype), [1.0] * 2, [7] * 2
    )


def decode(codec: Codec, payload: bytes) -> None:
    data = np.frombuffer(payload, np.uint8)
    out = torch.full((LAYOUT.elements,), 3.0, dtype=codec.dtype)
    acc = out.clone()
    with bounded(64):
        try:
            codec.decode(data, out, 7)
        except PayloadError as error:
            assert str(error)
            assert (out == 3).all(), "a part of it was decoded"
            for refusing in (
                lambda: codec.accumulate(data, acc, 0.5, 7),
                lambda: codec.accumulate_all([data, data], acc, [1.0, 1.0], [7, 7]),
            ):
                try:
                    refusing()
                except PayloadError:
                    assert (acc == 3).all(), "a part of it was added"
                else:
                    raise AssertionError("decode refuses what accumulate takes") from None
            return
        codec.accumulate(data, acc, 0.5, 7)
    # A float32 overflows where an affine range is as wide as float32: drivers look at sums (step's NonFiniteError).
    assert not torch.isnan(out).any()


@given(which=st.integers(0, len(CODECS) - 1), done=changes())
@inputs(250)
def test_a_changed_payload_is_refused_or_decodes_to_numbers(which, done):
    decode(CODECS[which], changed(WHOLE[which], done))


@given(which=st.integers(0, len(CODECS) - 1), data=st.data())
@inputs(150)
def test_any_bytes_of_the_right_length_are_refused_or_decode_to_numbers(which, data):
    size = len(WHOLE[which])
    decode(CODECS[which], data.draw(st.binary(min_size=size, max_size=size)))


ZSTD = [k for k, codec in enumerate(CODECS) if codec.flags]


def frame(raw: bytes, *, content_size: bool = True, window_log: int = 10, level: int = 1) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, window_log=window_log, write_content_size=content_size
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(raw)


@given(
    which=st.sampled_from(ZSTD),
    megabytes=st.sampled_from([0, 1, 512]),
    behind=st.sampled_from([b"", b"\0", frame(b"x"), b"\x50\x2a\x4d\x18\x04\0\0\0abcd"]),
    before=st.booleans(),
    content_size=st.booleans(),
    window_log=st.sampled_from([10, 27]),
)
@example(ZSTD[0], 512, b"", False, True, 27)
@inputs(30)
def test_a_frame_that_would_grow_is_refused_before_it_does(
    which, megabytes, behind, before, content_size, window_log
):
    """zstandard takes max_output_size for no limit where a frame states its size, and a frame may be one of many."""
    codec = CODECS[which]
    inner = codec.inner.payload_bytes()  # type: ignore[attr-defined]
    raw = bomb(megabytes << 20) if megabytes else frame(bytes(inner), content_size=content_size)
    decode(codec, (behind + raw) if before else (raw + behind))


def bomb(size: int, kept: dict[int, bytes] = {}) -> bytes:  # noqa: B006
    """A small frame of so many zeros."""
    if size not in kept:
        pieces = zstandard.ZstdCompressor(level=1).compressobj(size=size)
        kept[size] = b"".join(pieces.compress(bytes(1 << 20)) for _ in range(size >> 20)) + pieces.flush()
    return kept[size]
