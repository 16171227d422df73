"""Hypothesis strategies: layouts of flat vectors, the vectors themselves, and damage to payloads."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from qafel_mpi.codecs import Layout

Damage = list[tuple[float, bytes]]  # (place in the payload, from 0 to 1; the bytes written there)


def gaussian(elements: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(elements,) of independent standard normal numbers, the same for the same seed."""
    return torch.randn(elements, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@st.composite
def layouts(draw: st.DrawFn, most: int = 1500) -> Layout:
    """A layout of a matrix and a vector, of 1 to `most` elements together; lengths are multiples of nothing."""
    elements = draw(st.integers(1, most))
    rows = max(1, elements // 3)
    return Layout(("weight", "bias"), ((rows, 1), (elements - rows,)))


@st.composite
def vectors(draw: st.DrawFn, elements: int) -> torch.Tensor:
    """(elements,) float32, all finite: from denormal to near the largest float, with few or many zeros."""
    seed, exponent = draw(st.integers(0, 1000)), draw(st.integers(-44, 37))
    x = (gaussian(elements, seed).double().clamp(-3, 3) * 10.0**exponent).float()
    x[gaussian(elements, seed + 1).abs() < 2 * draw(st.floats(0, 1))] = 0
    return x


def damage() -> st.SearchStrategy[Damage]:
    """One to four overwritten places of a payload."""
    place = st.floats(0, 1) | st.just(0.0)
    written = st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff", b"\x7f"])
    return st.lists(st.tuples(place, written), min_size=1, max_size=4)


def overwritten(payload: np.ndarray, changes: Damage) -> np.ndarray:
    """A copy of a payload (uint8) with this damage."""
    payload = payload.copy()
    for place, data in changes:
        data = data[: payload.size]
        at = int(place * (payload.size - len(data)))
        payload[at : at + len(data)] = np.frombuffer(data, np.uint8)
    return payload
