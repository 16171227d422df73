"""The state of a thing as a plain value: what checkpoints keep, and what `restore` takes.

A State is a dictionary of names to numbers, texts, None, numpy arrays, lists of plain values, and States. `state()`
gives what a thing has become since it was made; its arrays may be views, which go on changing with the thing. A thing
that was made from the same settings goes on from there after `restore(state)`, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

State = dict[str, Any]


def restore_array(into: np.ndarray, saved: np.ndarray) -> None:
    """Copy a saved array into this one. Raises ValueError where shape or type differ."""
    if not isinstance(saved, np.ndarray) or saved.shape != into.shape or saved.dtype != into.dtype:
        found = f"{saved.dtype}{saved.shape}" if isinstance(saved, np.ndarray) else type(saved).__name__
        raise ValueError(f"a saved array is {found}, and {into.dtype}{into.shape} is needed")
    into[...] = saved
