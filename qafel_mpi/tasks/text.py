"""Text as bytes, for predicting the next one: windows of a fixed length, one user's after the other's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qafel_mpi.tasks.errors import DataError

VOCABULARY = 256
USUAL_CONTEXT = 64
ORDER_SEED = 0  # the order is a part of the data set, not of a run

Windows = tuple[np.ndarray, np.ndarray, np.ndarray]


def windows(texts: Sequence[bytes], context: int) -> Windows:
    """(x, y, user): inputs and, one byte further, targets, both (n, context) uint8; user: (n,), an index of texts.

    What is left of a text after its last whole window is not used, so a text of fewer than context + 1 bytes
    has none. Raises DataError where no text has one.
    """
    counts = [max(0, len(text) - 1) // context for text in texts]
    if not any(counts):
        raise DataError(f"{len(texts)} texts, and none has the {context + 1} bytes of one example")
    x = np.empty((sum(counts), context), np.uint8)
    y, begin = np.empty_like(x), 0
    for text, count in zip(texts, counts, strict=True):
        used = np.frombuffer(text, np.uint8, count * context + 1) if count else np.zeros(1, np.uint8)
        x[begin : begin + count] = used[:-1].reshape(count, context)
        y[begin : begin + count] = used[1:].reshape(count, context)
        begin += count
    return x, y, np.repeat(np.arange(len(texts)), counts)


def mixed(windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) in a fixed order without pattern, so that the first few are a sample of all texts."""
    x, y, _ = windows
    order = np.random.default_rng(ORDER_SEED).permutation(len(x))
    return x[order], y[order]


def entropy_bits(tokens: np.ndarray, vocabulary: int) -> float:
    """Of the tokens' frequencies: no model that knows these alone needs fewer bits a token on average."""
    shares = np.bincount(tokens.reshape(-1), minlength=vocabulary) / tokens.size
    return float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum())
