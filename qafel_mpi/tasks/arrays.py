"""Arrays of other kinds made numpy's own, where that loses nothing; else refused by name.

What a user's function gives may be a torch tensor, a list, a pandas column, an array of big-endian numbers. Each of
these has numpy's plain numbers in it. What would lose something on the way (a mask, an imaginary part, digits of a
long double) is a DataError that says where.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from qafel_mpi.kernels.numba.floats import all_finite
from qafel_mpi.tasks.errors import DataError

Number = int | float | np.number | np.bool_


def plain(where: str, value: Any) -> np.ndarray:
    """value as an array of bool, integers, floats of up to 64 bits, complex numbers or text, native and unmasked.

    where: what it is, for the error. Raises DataError.
    """
    array = _array(where, value)
    if array.ndim == 0:
        raise DataError(f"{where} is a {type(value).__name__}, and no array of them; {_hint(value)}")
    if array.dtype == object:
        array = _unwrapped(where, array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = _shortened(where, array)
    return array


def _array(where: str, value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
        if dense.is_meta:
            raise DataError(f"{where} is a tensor on the meta device, without values")
        return (dense.float() if dense.dtype == torch.bfloat16 else dense).cpu().numpy()
    if isinstance(value, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(value)
        if masked.any():
            at = tuple(np.argwhere(masked)[0].tolist())
            raise DataError(
                f"{where} has {masked.sum()} masked values, the first at {at}; fill them in or leave them out"
            )
        return np.asarray(value.data)
    try:
        return np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where} is a {type(value).__name__} that is no array: {error}") from error


def _hint(value: Any) -> str:
    if hasattr(value, "toarray"):
        return "call its toarray()"
    return "give a numpy array, a torch tensor or a list, with an element an example"


def _unwrapped(where: str, array: np.ndarray) -> np.ndarray:
    """Of objects that are all numbers, or all text."""
    flat = array.ravel().tolist()
    if not any(all(isinstance(item, kind) for item in flat) for kind in (Number, str)):
        wanted = str if isinstance(flat[0], str) else Number
        odd = next(item for item in flat if not isinstance(item, wanted))
        what = "names" if wanted is str else "numbers"
        raise DataError(
            f"{where} has objects that are no {what}, {type(odd).__name__} for instance: {repr(odd)[:60]}"
        )
    unwrapped = np.array(flat).reshape(array.shape)
    if unwrapped.dtype == object or (unwrapped.dtype.kind == "f" and not _same(unwrapped, array)):
        raise DataError(f"{where} has integers that no array holds")
    return unwrapped


def _same(numbers: np.ndarray, objects: np.ndarray) -> bool:
    """Large Python integers beside floats lose digits."""
    pairs = zip(numbers.ravel().tolist(), objects.ravel().tolist(), strict=True)
    return all(a == b or a != a for a, b in pairs)


def _shortened(where: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        short = array.astype(np.float64)
    lost = (short != array) & ~np.isnan(array)
    if lost.any():
        at = tuple(np.argwhere(lost)[0].tolist())
        raise DataError(f"{where} is {array.dtype}, and at {at} float64 would lose digits; round it first")
    return short


def numbers(where: str, value: Any) -> np.ndarray:
    """Examples: true and false are 1 and 0 to a model."""
    array = plain(where, value)
    return array.astype(np.float32) if array.dtype.kind == "b" else array


def labels(where: str, value: Any) -> np.ndarray:
    """Targets: true and false are the classes 1 and 0."""
    array = plain(where, value)
    return array.astype(np.int64) if array.dtype.kind == "b" else array


def codes(where: str, value: Any) -> np.ndarray:
    """Names of users as integers from 0, in the order of the names; integers as they are."""
    array = plain(where, value)
    if array.ndim != 1:
        raise DataError(f"{where} has the shape {array.shape}; make it one name an example, (n,)")
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{where} has a user that is {array[~np.isfinite(array)][0]}")
    return np.unique(array, return_inverse=True)[1].reshape(-1).astype(np.int64)


def require_finite(part: str, array: np.ndarray, feature: str = "feature") -> None:
    """Raise DataError naming the first example and feature that is NaN or infinite. part: 'training', say."""
    if array.dtype.kind != "f" or array.size == 0:
        return
    if array.itemsize in (4, 8) and all_finite(np.ascontiguousarray(array).reshape(-1)):
        return
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        example, *position = bad[0].tolist()
        at = f", {feature} {position[0] if len(position) == 1 else tuple(position)}" if position else ""
        value = array[tuple(bad[0])]
        raise DataError(
            f"data set, {part} part: example {example}{at} is {value}; there are {len(bad)} such values"
        )
