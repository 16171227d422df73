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
