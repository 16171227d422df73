"""Encodings that are begun and finished later: at once on a CPU, on a stream of their own on a (pretended) GPU."""

from typing import Any

import numpy as np
import pytest
import torch

from qafel_mpi.codecs import CodecConfig, Layout, NonFiniteError, build
from tests import pretended_gpu
from tests.pretended_gpu import OnGpu, Watched

LAYOUT = Layout(("w", "b"), ((30, 50), (70,)))
X = torch.randn(LAYOUT.elements, generator=torch.Generator().manual_seed(1))
CODECS: dict[str, dict[str, Any]] = {
    "qsgd": {"bits": 4},
    "qsgd l2 tensor": {"bits": 3, "scale": "l2", "bucket": "tensor"},
    "qsgd 12 bits": {"bits": 12},
    "sign": {"codec": "sign"},
    "affine": {"codec": "affine", "bits": 4},
    "zstd": {"bits": 4, "entropy": "zstd"},
    "identity": {"codec": "identity"},
    "topk": {"codec": "topk", "fraction": 0.2},
}


def encoded(name: str) -> tuple[bytes, int]:
    codec = build(CodecConfig(**CODECS[name]), LAYOUT)
    out = np.zeros(codec.payload_bytes(), np.uint8)
    size = codec.encode(X, out, 7)
    return out[:size].tobytes(), size


@pytest.mark.parametrize("name", [*CODECS, "randk"])
def test_a_cpu_encodes_at_once(name):
    config = CODECS.get(name, {"codec": "randk", "fraction": 0.2})
    codec = build(CodecConfig(**config), LAYOUT)
    now, later = np.zeros((2, codec.payload_bytes()), np.uint8)
    size = codec.encode(X, now, 7)
    encoding = codec.begin(X, later, 7)
    assert encoding.ready()
    assert encoding.finish() == size
    assert (now == later).all()


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("name", CODECS)
def test_an_encoding_on_a_gpu_is_ready_later_and_has_the_same_bytes(monkeypatch, name, pinned):
    wanted, size = encoded(name)
    pretended_gpu.pretend(monkeypatch, pinned=pinned)
    codec, x = build(CodecConfig(**CODECS[name]), LAYOUT), X.as_subclass(OnGpu)
    out = np.zeros(codec.payload_bytes(), np.uint8)
    for _ in range(2):  # the buffers are used again
        out[:] = 0
        encoding = codec.begin(x, out, 7)
        assert not encoding.ready()
        assert out[:size].tobytes() != wanted
        while not encoding.ready():
            pass
        assert encoding.finish() == size
        assert out[:size].tobytes() == wanted
    assert codec.encode(x, out, 7) == size
    assert (Watched.begun, Watched.finished, OnGpu.crossed) == (3, 3, 0)


@pytest.mark.parametrize("name", [name for name in CODECS if name != "zstd"])
def test_a_payload_can_stay_on_the_device(monkeypatch, name):
    wanted, size = encoded(name)
    pretended_gpu.pretend(monkeypatch)
    codec, x = build(CodecConfig(**CODECS[name]), LAYOUT), X.as_subclass(OnGpu)
    assert codec.encodes_on_device
    message = torch.zeros(64 + size, dtype=torch.uint8)
    assert codec.begin(x, message[64:], 7).finish() == size
    assert message[64:].numpy().tobytes() == wanted
    assert not message[:64].any()


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("name", CODECS)
def test_several_are_all_begun_before_the_first_is_waited_for(monkeypatch, name, pinned):
    xs, keys = torch.stack((X, -X, 2 * X)), np.array([7, 8, 9], np.uint64)
    wanted, found = np.zeros((2, 3, build(CodecConfig(**CODECS[name]), LAYOUT).payload_bytes()), np.uint8)
    sizes = build(CodecConfig(**CODECS[name]), LAYOUT).encode_all(xs, wanted, keys)
    pretended_gpu.pretend(monkeypatch, pinned=pinned)
    codec = build(CodecConfig(**CODECS[name]), LAYOUT)
    assert codec.encode_all(xs.as_subclass(OnGpu), found, keys) == sizes
    assert (found == wanted).all()
    assert (Watched.begun, Watched.finished, OnGpu.crossed) == (3, 3, 0)
    assert Watched.most == (3 if codec.encodes_on_device else 1)
    xs[1, 1503] = float("inf")
    with pytest.raises(NonFiniteError, match="'b', element 3"):
        codec.encode_all(xs.as_subclass(OnGpu), found, keys)
    xs[1] = -X
    assert codec.encode_all(xs.as_subclass(OnGpu), found, keys) == sizes  # it is forgotten
    assert (found == wanted).all()


def test_what_is_not_finite_is_said_when_it_is_finished(monkeypatch):
    pretended_gpu.pretend(monkeypatch)
    codec = build(CodecConfig(bits=4), LAYOUT)
    x = X.clone()
    x[1503] = float("nan")
    encoding = codec.begin(x.as_subclass(OnGpu), np.zeros(codec.payload_bytes(), np.uint8), 7)
    with pytest.raises(NonFiniteError, match="'b', element 3"):
        encoding.finish()


def test_payloads_from_the_host_are_decoded_on_the_device(monkeypatch):
    pretended_gpu.pretend(monkeypatch)
    for config in CODECS.values():
        codec = build(CodecConfig(**config), LAYOUT)
        payload = np.zeros(codec.payload_bytes(), np.uint8)
        payload = payload[: codec.encode(X, payload, 7)]
        here, there = torch.ones_like(X), torch.ones_like(X).as_subclass(OnGpu)
        for acc in (here, there):
            for _ in range(3):
                codec.accumulate(payload, acc, 0.25, 7)
        assert torch.equal(here, there.cpu())


def test_the_stand_in_catches_a_vector_that_changes_too_early(monkeypatch):
    pretended_gpu.pretend(monkeypatch)
    codec, x = build(CodecConfig(bits=4), LAYOUT), X.clone().as_subclass(OnGpu)
    encoding = codec.begin(x, np.zeros(codec.payload_bytes(), np.uint8), 7)
    x.zero_()
    with pytest.raises(AssertionError, match="changed while"):
        encoding.finish()
