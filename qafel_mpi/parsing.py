"""Strict readers of text and JSON: a number is what the whole text says, or an error with value, file and line.

Python's int() and float() take more than a data file may mean: "1_0" is 10, "nan" and "1e999" pass, int(0.9) is 0,
digits of every script count. These readers accept ASCII decimal numbers only and refuse what is not finite.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")  # 18 digits fit int64
_REAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_LINE_END = re.compile("\r\n|\n|\r")  # str.splitlines also cuts at form feeds and Unicode's separators
_INFINITY = float("inf")


class DataError(Exception):
    """Data, or a model on it, that cannot be used; the message names the file, the place, and what to do."""


@dataclass(frozen=True)
class Place:
    """Where in a file something was read.

    >>> str(Place("a.json").at("user_data", "u1"))
    'a.json, user_data, u1'
    >>> str(Place("a.libsvm", 3))
    'a.libsvm, line 3'
    """

    path: Path | str
    line: int | None = None
    keys: tuple[str, ...] = ()

    def at(self, *keys: object) -> Place:
        """The place below this one that the keys lead to."""
        return Place(self.path, self.line, (*self.keys, *map(str, keys)))

    def __str__(self) -> str:
        line = [] if self.line is None else [f"line {self.line}"]
        return ", ".join([str(self.path), *line, *self.keys])

    def error(self, message: str) -> DataError:
        return DataError(f"{self}: {message}")


# --- files ----------------------------------------------------------------------------------------------------------


def visible(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder that match, in order, without hidden ones: macOS leaves a `._NAME` beside every NAME.

    Raises DataError where the folder may not be looked into.
    """
    try:
        return sorted(
            path for path in folder.glob(pattern) if not path.name.startswith(".") and path.is_file()
        )
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from error


def read_bytes(path: Path) -> bytes:
    """Raises DataError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def read_text(path: Path) -> str:
    """A file of UTF-8 text, without its byte order mark. Raises DataError naming the first byte that is no text."""
    data = read_bytes(path)
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    try:
        return data[start:].decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, byte {start + error.start}: not text: {error.reason}") from error


def lines(path: Path) -> Iterator[tuple[Place, list[str]]]:
    """The fields of each line that has any, with their place; '#' begins a comment. Raises DataError."""
    for number, line in enumerate(_LINE_END.split(read_text(path)), 1):
        fields = line.partition("#")[0].split()
        if fields:
            yield Place(path, number), fields


def read_json(path: Path) -> Any:
    """A file of JSON as the standard has it: no NaN, no infinity, no key twice. Raises DataError."""

    def no_constant(name: str) -> Any:
        raise DataError(f"{path}: {name} is not a finite number")

    def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise DataError(f"{path}: the key {twice!r} occurs twice in one object")
        return found

    try:
        return json.loads(read_text(path), parse_constant=no_constant, object_pairs_hook=no_key_twice)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from error


# --- values ---------------------------------------------------------------------------------------------------------


def integer(
    text: str, place: Place, what: str = "value", *, least: int | None = None, most: int | None = None
) -> int:
    """A decimal integer. Raises DataError.

    >>> integer("+7", Place("a.txt", 1))
    7
    >>> integer("1_0", Place("a.txt", 2), "index")
    Traceback (most recent call last):
    qafel_mpi.parsing.DataError: a.txt, line 2: index '1_0' is not a whole number
    """
    if _INTEGER.fullmatch(text) is None:
        raise place.error(f"{what} {text!r} is not a whole number")
    return _within(int(text), place, what, least, most)


def real(text: str, place: Place, what: str = "value") -> float:
    """A finite decimal number, as float64. Raises DataError.

    >>> real("-2.5e-1", Place("a.txt", 1))
    -0.25
    >>> real("nan", Place("a.txt", 2))
    Traceback (most recent call last):
    qafel_mpi.parsing.DataError: a.txt, line 2: value 'nan' is not a finite decimal number
    """
    value = float(text) if _REAL.fullmatch(text) is not None else _INFINITY
    if abs(value) == _INFINITY:  # also "1e999"
        raise place.error(f"{what} {text!r} is not a finite decimal number")
    return value


def whole(
    value: object, place: Place, what: str = "value", *, least: int | None = None, most: int | None = None
) -> int:
    """A number of JSON that is whole: 1 or 1.0, not 0.9, "1" or true. Raises DataError.

    >>> whole(1.0, Place("a.json"), "label")
    1
    >>> whole(0.9, Place("a.json"), "label")
    Traceback (most recent call last):
    qafel_mpi.parsing.DataError: a.json: label 0.9 is not a whole number
    """
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise place.error(f"{what} {value!r} is not a whole number")
    return _within(value, place, what, least, most)


def one_of(text: str, known: Mapping[str, T], place: Place, what: str = "value") -> T:
    """What `known` has for this text. Raises DataError naming all that is known.

    >>> one_of("+1", {"1": 1, "+1": 1, "-1": 0}, Place("list.txt", 3), "Smiling")
    1
    """
    if text not in known:
        raise place.error(f"{what} {text!r} is not one of {', '.join(known)}")
    return known[text]


def _within(value: int, place: Place, what: str, least: int | None, most: int | None) -> int:
    if least is not None and value < least and most is None:
        raise place.error(f"{what} {value} is not at least {least}")
    if (least is not None and value < least) or (most is not None and value > most):
        raise place.error(f"{what} {value} is not in {'' if least is None else least} .. {most}")
    return value
