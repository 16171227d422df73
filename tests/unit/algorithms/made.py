"""A server, codecs and vectors to test with."""

import numpy as np
import torch

from qafel_mpi.algorithms.client import Replica
from qafel_mpi.algorithms.config import ServerConfig, StalenessConfig
from qafel_mpi.algorithms.server import Server, Update
from qafel_mpi.codecs import CodecConfig, Layout, build

LAYOUT = Layout(("a.weight", "a.bias", "b.weight"), ((20, 30), (20,), (7, 11)))


D = LAYOUT.elements


CONSTANT = StalenessConfig(weight="constant")


POLYNOMIAL = StalenessConfig(weight="polynomial", exponent=0.5)


CODECS = {
    "identity": CodecConfig(codec="identity"),
    "qsgd": CodecConfig(bits=4),
    "qsgd 1 bit": CodecConfig(bits=1),
    "qsgd l2 tensor": CodecConfig(levels=8, scale="l2", bucket="tensor"),
    "affine": CodecConfig(codec="affine", bits=4),
    "topk": CodecConfig(codec="topk", fraction=0.05),
    "randk": CodecConfig(codec="randk", fraction=0.5),
    "sign": CodecConfig(codec="sign"),
    "zstd": CodecConfig(bits=4, entropy="zstd"),
}


def start(seed: int = 0) -> torch.Tensor:
    return torch.randn(D, generator=torch.Generator().manual_seed(seed))


def make(
    uplink=CODECS["identity"], downlink=CODECS["identity"], *, assigns=None, staleness=CONSTANT, **server
):
    """(server, uplink codec, downlink codec) with K = 1 unless told otherwise."""
    up, down = build(uplink, LAYOUT), build(downlink, LAYOUT)
    replica = Replica(start(), down, assigns=down.name == "identity" if assigns is None else assigns)
    config = ServerConfig(**{"buffer_size": 1} | server)
    return Server(start(), up, replica, config, staleness, seed=0, clients=8), up, down


def upload(server, up, vector, *, client=0, version=None, examples=1, key=1):
    payload = np.zeros(up.payload_bytes(), np.uint8)
    size = up.encode(vector, payload, key)
    version = server.version if version is None else version
    return server.receive(Update(client, version, payload[:size], key, examples))


def step(server, down):
    """(Step, q^t's bytes)."""
    out = np.zeros(down.payload_bytes(), np.uint8)
    made = server.step(out)
    return made, out[: made.payload_bytes]


def damaged(codec) -> list[np.ndarray]:
    """A payload with NaN where its scales or first values are, one that lacks a byte, and of no bytes at all."""
    out = np.zeros(codec.payload_bytes(), np.uint8)
    payload = out[: codec.encode(start(1), out, 7)]
    nan = payload.copy()
    nan[:8] = 0xFF
    found = [nan, payload[:-1], payload[:0]]
    if codec.flags:  # a good frame around bad content
        frame = np.zeros(codec.payload_bytes(), np.uint8)
        codec._raw[:8] = 0xFF
        found.append(frame[: codec.compress(codec._raw.size, frame)])
    return found
