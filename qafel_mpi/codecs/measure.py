"""The compression parameter δ of Definition 2.1, measured."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Codec
from qafel_mpi.kernels.keys import Stream, derive


def relative_error(codec: Codec, x: Tensor, key: int) -> float:
    """‖Q(x) − x‖²/‖x‖² of one encoding; 0 for a zero vector."""
    payload = np.empty(codec.payload_bytes(), dtype=np.uint8)
    decoded = torch.empty_like(x)
    codec.decode(payload[: codec.encode(x, payload, key)], decoded, key)
    norm = float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2
    error = float(torch.linalg.vector_norm((decoded - x).double())) ** 2
    return error / norm if norm else 0.0


def measure_delta(codec: Codec, vectors: Iterable[Tensor], *, seed: int = 0) -> float:
    """1 − the mean of ‖Q(x) − x‖²/‖x‖² over the vectors, each encoded once with a key of its own."""
    errors = [relative_error(codec, x, derive(seed, Stream.EVALUATION, 0, i)) for i, x in enumerate(vectors)]
    return 1.0 - float(np.mean(errors))


def contraction_warning(codec: Codec, *, seed: int = 0) -> str | None:
    """What to tell the user where the codec guarantees no contraction and shows none on a Gaussian vector.

    Definition 2.1, on which the method's convergence rests, asks for 0 < δ. None where all is well.
    """
    guaranteed = codec.delta()
    if guaranteed is None or guaranteed > 0:
        return None
    generator = torch.Generator().manual_seed(derive(seed, Stream.EVALUATION) & (2**63 - 1))
    x = torch.randn(codec.layout.elements, generator=generator, dtype=codec.dtype)
    measured = measure_delta(codec, [x], seed=seed)
    if measured > 0:
        return None
    return (
        f"codec {codec.name} at {codec.bits} bits is no contraction: δ = {measured:.3g} measured on a Gaussian "
        f"vector of {codec.layout.elements} elements, and Definition 2.1 asks for δ > 0. Use more bits, smaller "
        "buckets or, with qsgd, scale = linf"
    )
