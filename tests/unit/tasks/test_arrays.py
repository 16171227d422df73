"""Arrays of other kinds: converted where that loses nothing, else refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from qafel_mpi.tasks import DataError, Dataset
from qafel_mpi.tasks.examples import Examples

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([0, 1, 2, 1])


@pytest.mark.parametrize(
    ("x", "y", "groups"),
    [
        (X.astype(">f4"), Y.astype(">i8"), ["ann", "bob", "ann", "cy"]),
        (X.astype(np.longdouble), Y.astype(np.int16), np.array(["ann", "bob", "ann", "cy"], dtype=object)),
        (
            torch.from_numpy(X).bfloat16(),
            torch.from_numpy(Y).requires_grad_(False),
            np.array(["ann", "bob", "ann", "cy"]),
        ),
        (torch.from_numpy(X).requires_grad_(), pd.Series(Y), pd.Series(["ann", "bob", "ann", "cy"])),
        (X.tolist(), Y.tolist(), [0, 1, 0, 2]),
        (pd.DataFrame(X), pd.Series(Y, dtype="Int64"), pd.Categorical(["ann", "bob", "ann", "cy"])),
        (X.astype(object), Y.astype(object), np.array([1.0, 2.0, 1.0, 3.0])),
        (np.ma.MaskedArray(X), np.ma.MaskedArray(Y), ("ann", "bob", "ann", "cy")),
    ],
)
def test_arrays_of_other_kinds_are_the_same_data(x: Any, y: Any, groups: Any) -> None:
    data = Dataset(x, y, 3, groups=groups)
    assert np.array_equal(data.x, X)
    assert (data.x.dtype.kind, data.y.dtype.kind, data.x.dtype.isnative) == ("f", "i", True)
    assert np.array_equal(data.y, Y)
    assert data.groups is not None
    assert data.groups.tolist() == [0, 1, 0, 2]
    assert data.digest().startswith("4 examples ")
    Examples(data, torch.float32, torch.device("cpu"))


def test_true_and_false_are_numbers() -> None:
    data = Dataset(X > 4, Y > 0, 2)
    assert (data.x.dtype, data.x.sum(), data.y.tolist()) == (np.float32, 7, [0, 1, 1, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.ma.masked_less(X, 2)}, r"data set: x has 2 masked values, the first at \(0, 0\)"),
        ({"x": X.astype(np.complex64)}, "examples are complex64"),
        ({"x": X.astype(np.longdouble) / 3}, r"at \(0, 1\) float64 would lose digits"),
        ({"x": [[1.0], [2.0, 3.0], [1.0], [1.0]]}, "data set: x is a list that is no array"),
        ({"x": [["a"]] * 4}, "examples are <U1"),
        ({"x": np.array([[1.0], [None], [2.0], [3.0]], dtype=object)}, "no numbers, NoneType for instance"),
        ({"x": (n for n in range(4))}, "data set: x is a generator, and no array of them"),
        ({"x": 3.0}, "data set: x is a float, and no array"),
        ({"y": [0, 1, 2, 0.5]}, "classes are float64"),
        (
            {"y": pd.Series([0, 1, None, 1], dtype="Int64")},
            "NAType for instance|classes are float64",
        ),
        ({"y": ["a", "b", "c", "a"]}, "classes are <U1"),
        ({"groups": ["ann", "bob", "ann", None]}, "NoneType for instance"),
        ({"groups": [0.0, 1.0, np.nan, 0.0]}, "has a user that is nan"),
        ({"groups": [[0], [1], [0], [1]]}, r"has the shape \(4, 1\); make it one name an example"),
    ],
)
def test_what_would_lose_something_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"x": X, "y": Y, "classes": 3} | changes
    with pytest.raises(DataError, match=message):
        Dataset(**given)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_number_that_is_none_is_found_with_its_example_and_feature(value: float, dtype: Any) -> None:
    x = np.zeros((9, 3), dtype)
    x[7, 2] = value
    with pytest.raises(
        DataError, match=f"training part: example 7, feature 2 is {value}; there are 1 such values"
    ):
        Dataset(x, np.zeros(9, int), 2)
    with pytest.raises(DataError, match="test part: example 7, feature 2"):
        Dataset(np.zeros((2, 3), dtype), np.zeros(2, int), 2, x, np.zeros(9, int))
    images = np.zeros((2, 1, 4, 4), dtype)
    images[1, 0, 3, 2] = value
    with pytest.raises(DataError, match=r"example 1, feature \(0, 3, 2\)"):
        Dataset(images, np.zeros(2, int), 2)
    with pytest.raises(DataError, match="example 1, target 0 is"):
        Dataset(X[:2], np.array([[0.0], [value]]), targets="values")


def test_a_number_too_large_for_the_models_type_is_refused() -> None:
    x = X.astype(np.float64)
    x[2, 1] = -1e300
    data = Dataset(x, Y, 3)
    Examples(data, torch.float64, torch.device("cpu"))
    with pytest.raises(
        DataError, match=r"training part: -1e\+300 at \(2, 1\) is too large for torch.float32"
    ):
        Examples(data, torch.float32, torch.device("cpu"))
