"""Codecs that are made for Gaussian vectors: their errors on these, and eden's bias on heavy tails.

python docs/results/codec_gaussian.py docs/results/codec-gaussian.json     (record.sh runs it)

The error is the mean of ‖Q(x) − x‖²/‖x‖². The bias is the squared distance of the mean of 40 messages from the vector
over that of an unbiased codec with the same error: 1 where there is none. Heavy: log-normal of scale 1.5, random
signs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from qafel_analysis.commands.record import write
from qafel_analysis.read import sources
from torch import Tensor

from qafel_mpi.codecs import Codec, CodecConfig, Layout, build
from qafel_mpi.codecs.measure import measure_delta
from qafel_mpi.drivers.provenance import provenance
from qafel_mpi.kernels.keys import Stream, derive

ELEMENTS = 16_384
VECTORS = 12
HEAVY = 3
MESSAGES = 40
BITS = (1, 2, 4)


def gaussian(seed: int) -> Tensor:
    return torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(seed))


def heavy(seed: int) -> Tensor:
    return torch.exp(1.5 * gaussian(seed)) * gaussian(seed + 1).sign()


def bias(codec: Codec, x: Tensor) -> float:
    """Of MESSAGES encodings of x, each with a key of its own."""
    payload = np.empty(codec.payload_bytes(), dtype=np.uint8)
    total, error, decoded = torch.zeros_like(x), 0.0, torch.empty_like(x)
    for number in range(MESSAGES):
        key = derive(0, Stream.UPLINK, 0, number)
        size = codec.encode(x, payload, key)
        codec.decode(payload[:size], decoded, key)
        total += decoded
        error += float((decoded - x).norm()) ** 2
    return float((total / MESSAGES - x).norm()) ** 2 / (error / MESSAGES**2)


def made(**settings: Any) -> Codec:
    return build(CodecConfig.model_validate(settings), Layout(("v",), ((1, ELEMENTS),)))


def errors() -> list[dict[str, Any]]:
    """Of eden and fp4."""
    codecs: list[dict[str, Any]] = [
        {"codec": "eden", "bits": bits, "scale": scale}
        for scale in ("unbiased", "least-squares")
        for bits in (1, 2, 3, 4)
    ]
    codecs += [
        {"codec": "fp4", "format": form, "rounding": rounding}
        for form in ("mxfp4", "nvfp4")
        for rounding in ("nearest", "stochastic")
    ]
    vectors = [gaussian(seed) for seed in range(VECTORS)]
    return [{"settings": one, "error": 1 - measure_delta(made(**one), vectors)} for one in codecs]


def biases() -> list[dict[str, Any]]:
    """Of eden by bits, as it is by default and with what mends it: a vector's value each."""
    ways: Sequence[dict[str, Any]] = ({}, {"rotations": 2}, {"bucket": 4096})
    vectors = [heavy(10 * k) for k in range(HEAVY)]
    return [
        {"bits": bits, "options": way, "biases": [bias(made(codec="eden", bits=bits, **way), x) for x in vectors]}
        for bits in BITS
        for way in ways
    ]  # fmt: skip


def main() -> None:
    command = ["python", "docs/results/codec_gaussian.py", *sys.argv[1:]]
    content = {"elements": ELEMENTS, "messages": MESSAGES, "errors": errors(), "biases": biases()}
    write(Path(sys.argv[1]), "codec_gaussian", content, [sources.of_bench(provenance(command))])


if __name__ == "__main__":
    main()
