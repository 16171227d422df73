"""Settings as text: TOML out, `--set` in, and what is said when a setting is wrong.

Nothing here knows a particular setting: keys, types and bounds are read from the pydantic models.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from qafel_mpi.parsing import DataError, Place, integer
from qafel_mpi.stdio import printable

MOST_SEEDS = 100_000  # of a list
Keys = tuple[str, ...]  # the keys that lead to a setting: ("task", "partition", "alpha")

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class ConfigError(ValueError):
    """An experiment that cannot be run as written. The message has one line a problem."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


# --- TOML out ---------------------------------------------------------------------------------------


def toml_value(value: Any) -> str:
    """One value as TOML: text, number, boolean, or a list or table of these."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            # JSON's escapes are TOML's, save that TOML wants DEL escaped too.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return "[" + ", ".join(toml_value(item) for item in value) + "]"
        case Mapping():
            pairs = (f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items())
            return "{ " + ", ".join(pairs) + " }"
    raise TypeError(f"no TOML for {type(value).__name__}: {value!r}")


def toml_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else toml_value(key)


def toml_document(tables: Mapping[str, Any]) -> str:
    """Nested dicts as a TOML document: plain keys, then one [section] a table; deeper tables stay inline."""
    plain = {key: value for key, value in tables.items() if not isinstance(value, Mapping)}
    lines = [f"{toml_key(key)} = {toml_value(value)}" for key, value in plain.items()]
    for section, table in tables.items():
        if section not in plain:
            lines += ["", f"[{toml_key(section)}]"]
            lines += [f"{toml_key(key)} = {toml_value(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


# --- lists in options -------------------------------------------------------------------------------


def choices(option: str, text: str, known: Sequence[str]) -> list[str]:
    """The names in a list with commas; empty for an empty text. Raises ConfigError."""
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"{option} {name}: {did_you_mean(name, known)}" for name in unknown)
    return names


def whole_numbers(option: str, text: str, least: int, most: int) -> list[int]:
    """The numbers in a list with commas. Raises ConfigError.

    >>> whole_numbers("--bits", "2, 4", 1, 16)
    [2, 4]
    """
    try:
        numbers = [integer(part.strip(), Place(option)) for part in text.split(",")]
    except DataError:
        raise ConfigError([f"{option} {text}: not a list of whole numbers like 2,4"]) from None
    if any(not least <= number <= most for number in numbers):
        raise ConfigError([f"{option} {text}: each must be from {least} to {most}"])
    return numbers


def parse_seeds(text: str) -> list[int]:
    """The seeds of a list with ranges, each once, MOST_SEEDS at most. Raises ConfigError.

    >>> parse_seeds("0-2,7")
    [0, 1, 2, 7]
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part, re.ASCII)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ConfigError([f"--seeds {text}: not a list like 0-4 or 0,3,7"])
        more = range(int(match[1]), int(match[2] or match[1]) + 1)
        if len(seeds) + more.stop - more.start > MOST_SEEDS:
            raise ConfigError([f"--seeds {text}: more than {MOST_SEEDS:,} seeds"])
        seeds += more
    return list(dict.fromkeys(seeds))


# --- --set in ---------------------------------------------------------------------------------------


def parse_override(text: str) -> tuple[Keys, Any]:
    """`section.key=value` as (path, value). The value is TOML; what is no TOML is taken as a bare word.

    >>> parse_override("task.partition.alpha=0.1")
    (('task', 'partition', 'alpha'), 0.1)
    >>> parse_override("algorithm=fedbuff")
    (('algorithm',), 'fedbuff')
    """
    if (shown := printable(text)) != text:
        raise ConfigError([f"--set {shown}: not UTF-8 text"])
    left, equals, right = text.partition("=")
    path = tuple(key.strip() for key in left.split("."))
    if not equals or not all(path):
        raise ConfigError([f"--set {text}: not of the form section.key=value"])
    try:
        return path, tomllib.loads(f"value = {right}")["value"]
    except tomllib.TOMLDecodeError as error:
        if right.lstrip()[:1] in ("", '"', "'", "[", "{"):  # meant as TOML, and broken
            raise ConfigError([f"--set {text}: the value is not TOML: {error}"]) from None
        return path, right.strip()


def nested(path: Keys, value: Any) -> dict[str, Any]:
    """The nested dict that holds `value` at `path` and nothing else."""
    for key in reversed(path):
        value = {key: value}
    return typing.cast("dict[str, Any]", value)


# --- what is wrong ----------------------------------------------------------------------------------


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` is most likely a misspelling of."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: a guess, or else all that is known."""
    known = list(known)
    guess = nearest(word, known)
    return f"did you mean {guess}?" if guess else f"known: {', '.join(known)}"


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[tuple[Keys, str]]:
    """pydantic's complaints as (path, sentence), one a setting however many alternatives it has."""
    found: dict[tuple[Keys, str], None] = {}
    for detail in error.errors(include_url=False):
        location = tuple(key for key in detail["loc"] if isinstance(key, str))
        path, field, owner = follow(location, model)
        kind = detail["type"]
        if kind == "extra_forbidden":
            unknown = location[len(path)]
            sentence = f"unknown key; {did_you_mean(unknown, owner.model_fields)}"
            found[(*path, unknown), sentence] = None
        elif kind in ("value_error", "assertion_error"):
            found.update(((path, line), None) for line in str(detail["ctx"]["error"]).splitlines())
        elif field is not None:
            missing = f"missing; it takes {allowed(field)}"
            found[path, missing if kind == "missing" else _wrong_value(detail["input"], field)] = None
    return list(found)


def follow(location: Keys, model: type[BaseModel]) -> tuple[Keys, FieldInfo | None, type[BaseModel]]:
    """How far a location leads through nested models: its path, its last field, the model it ends in."""
    path: Keys = ()
    field: FieldInfo | None = None
    for key in location:
        if key not in model.model_fields:
            break
        path, field = (*path, key), model.model_fields[key]
        inner = model_in(field.annotation) or items_in(field.annotation)
        if inner is None:
            break
        model = inner
    return path, field, model


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model of a section's field; None where the field is a plain setting."""
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def items_in(annotation: Any) -> type[BaseModel] | None:
    """The model of the tables in a list, `tuple[Model, ...]`; None where the field is no such list."""
    arguments = typing.get_args(annotation) if typing.get_origin(annotation) is tuple else ()
    return model_in(arguments[0]) if arguments else None


def _options(annotation: Any) -> list[Any]:
    """The alternatives of a union, None left out; a type that is no union is its own one alternative."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [one for one in typing.get_args(annotation) if one is not type(None)]
    return [annotation]


def _wrong_value(value: Any, field: FieldInfo) -> str:
    sentence = f"{_shown(value)} is not allowed; it takes {allowed(field)}"
    words = [word for option in _options(field.annotation) for word in _words(option)]
    guess = nearest(value, words) if isinstance(value, str) else None
    return f"{sentence}; did you mean {guess}?" if guess else sentence


def _shown(value: Any) -> str:
    try:
        return toml_value(value)
    except TypeError:
        return repr(value)


def _words(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return [value for value in typing.get_args(annotation) if isinstance(value, str)]
    return []


def allowed(field: FieldInfo) -> str:
    """What a setting takes, in words: 'a whole number >= 1', 'one of sgd, adam'."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "values" in extra:
        return str(extra["values"])
    return " or ".join(_in_words(option, field.metadata) for option in _options(field.annotation))


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def _in_words(annotation: Any, metadata: Iterable[Any]) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _in_words(arguments[0], [*metadata, *arguments[1:]])
    if origin is typing.Literal:
        shown = [str(value) for value in arguments]
        return shown[0] if len(shown) == 1 else f"one of {', '.join(shown)}"
    if origin in (tuple, list):
        return f"a list, each {_in_words(arguments[0], ())}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a table of {', '.join(annotation.model_fields)}"
    if annotation not in (int, float):
        return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))
    bounds = [
        f"{sign} {getattr(bound, name)}"
        for bound in metadata
        for name, sign in _BOUNDS.items()
        if getattr(bound, name, None) is not None
    ]
    return " ".join([_NAMES[annotation], " and ".join(bounds)]).strip()
