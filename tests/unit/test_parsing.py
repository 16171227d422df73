"""Strict readers: what the whole text says, or an error that names value, file and line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qafel_mpi.parsing import (
    DataError,
    Place,
    integer,
    lines,
    one_of,
    read_json,
    read_text,
    real,
    visible,
    whole,
)

PLACE = Place("x.txt", 3)
# What Python's int() or float() takes beside plain decimal numbers.
LOOSE = ["1_0", " 1", "1\n", "\u0661", "0x10", "1e5_0", "infinity", "-inf", "nan", "", "+", "--1", "1,5"]


@given(st.integers(-(10**17), 10**17))
def test_every_integer_is_read_as_it_is_written(value: int) -> None:
    assert integer(str(value), PLACE) == integer(f"{value:+}", PLACE) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_is_read_as_it_is_written(value: float) -> None:
    for text in (repr(value), f"{value:.17e}", f"{value:+.17E}"):
        assert math.copysign(1, real(text, PLACE)) == math.copysign(1, value)
        assert real(text, PLACE) == value


@pytest.mark.parametrize("text", LOOSE)
def test_what_only_python_takes_for_a_number_is_refused(text: str) -> None:
    for read in (integer, real):
        with pytest.raises(DataError) as caught:
            read(text, PLACE, "size")
        assert str(caught.value).startswith(f"x.txt, line 3: size {text!r} is not a")


@pytest.mark.parametrize("text", ["1e999", "-1e400"])
def test_a_number_beyond_floats_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=f"'{text}' is not a finite decimal number"):
        real(text, PLACE)


@pytest.mark.parametrize("text", ["1.0", "1e3", "9" * 19])
def test_an_integer_is_neither_a_fraction_nor_longer_than_64_bits(text: str) -> None:
    with pytest.raises(DataError, match="is not a whole number"):
        integer(text, PLACE)


def test_bounds_are_named() -> None:
    assert integer("5", PLACE, least=5, most=5) == 5
    with pytest.raises(DataError, match=r"line 3: feature 0 is not in 1 \.\. 112"):
        integer("0", PLACE, "feature", least=1, most=112)
    with pytest.raises(DataError, match="line 3: client -1 is not at least 0"):
        whole(-1, PLACE, "client", least=0)


@pytest.mark.parametrize("value", [0.9, math.nan, math.inf, True, "1", None, [1]])
def test_a_label_of_json_is_a_whole_number_and_nothing_that_int_makes_one(value: object) -> None:
    with pytest.raises(DataError, match=r"x\.txt, line 3: label .* is not a whole number"):
        whole(value, PLACE, "label")


def test_a_word_that_is_not_known_is_refused_with_those_that_are() -> None:
    assert one_of("yes", {"yes": 1, "no": 0}, PLACE) == 1
    with pytest.raises(DataError, match="line 3: answer 'Yes' is not one of yes, no"):
        one_of("Yes", {"yes": 1, "no": 0}, PLACE, "answer")


def test_lines_are_those_that_an_editor_counts(tmp_path: Path) -> None:
    """A form feed or one of Unicode's separators ends no line; a lone carriage return does."""
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffa b # c\r\n\n# d\n\x0ce\u2028f\rg".encode())
    assert [(str(place), fields) for place, fields in lines(path)] == [
        (f"{path}, line 1", ["a", "b"]),
        (f"{path}, line 4", ["e", "f"]),
        (f"{path}, line 5", ["g"]),
    ]


def test_the_byte_that_is_no_text_is_counted_from_the_files_begin(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffabc".encode() + b"\xff")
    with pytest.raises(DataError, match=r"a\.txt, byte 6: not text"):
        read_text(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "NaN is not a finite number"),
        ("[-Infinity]", "-Infinity is not a finite number"),
        ('{"a": 1, "b": {"c": 2, "c": 3}}', "the key 'c' occurs twice"),
        ("[1,", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_json_beyond_the_standard_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"a\.json: .*{message}"):
        read_json(path)


def test_json_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("\ufeff" + json.dumps({"a": [1, 0.5]}))
    assert read_json(path) == {"a": [1, 0.5]}


def test_hidden_files_and_folders_are_no_data(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", "._a.json", ".json", "c.txt"):
        (tmp_path / name).touch()
    (tmp_path / "d.json").mkdir()
    assert [path.name for path in visible(tmp_path, "*.json")] == ["a.json", "b.json"]
    assert visible(tmp_path / "nowhere", "*.json") == []
