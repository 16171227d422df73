"""Every setting with its default, values, clock and meaning, read from the config models."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from qafel_mpi.algorithms.presets import PRESETS
from qafel_mpi.config import Experiment
from qafel_mpi.config_layers import with_preset
from qafel_mpi.config_text import ConfigError, allowed, did_you_mean, model_in, toml_value
from qafel_mpi.setting import conditions_of, in_words


@dataclass(frozen=True)
class Setting:
    """One setting. default: None where it has none; presets: what an algorithm puts in the default's place."""

    key: str  # "server.buffer_size"
    default: Any
    required: bool
    values: str
    clock: str  # on which it has an effect: wall, virtual or both
    meaning: str
    presets: Mapping[str, Any]  # by the algorithm's name
    only_with: Mapping[
        str, list[Any]
    ]  # by the key of another setting, the values with which this one has an effect

    @property
    def default_text(self) -> str:
        """The default as one would write it in TOML."""
        if self.required:
            return "required"
        return "not set" if self.default is None else toml_value(self.default)

    @property
    def conditions(self) -> str:
        """Where it has an effect: "with codec = 'qsgd' or 'affine' and without levels"; empty: everywhere."""
        return " and ".join(in_words(key, wanted) for key, wanted in self.only_with.items())

    def presets_by_value(self) -> list[tuple[str, list[str]]]:
        """The values that presets bring, as TOML, each with the algorithms that bring it."""
        found: dict[str, list[str]] = {}
        for algorithm, value in self.presets.items():
            found.setdefault(toml_value(value), []).append(algorithm)
        return list(found.items())


@dataclass(frozen=True)
class Section:
    """The settings of one table of an experiment, without those of the tables within it."""

    key: str  # "server", "task.partition"; "" for the settings outside all tables
    meaning: str
    settings: tuple[Setting, ...]


@cache
def sections() -> tuple[Section, ...]:
    """All sections of an experiment, each followed by the ones within it."""
    return tuple(_sections(Experiment, ""))


def chosen(key: str | None) -> list[Section]:
    """The section of that name with those within it, or the one setting; everything for None. Raises ConfigError."""
    every = sections()
    if key is None:
        return list(every)
    if found := [one for one in every if one.key == key or one.key.startswith(f"{key}.")]:
        return found
    for section in every:
        if alone := tuple(setting for setting in section.settings if setting.key == key):
            return [Section(section.key, section.meaning, alone)]
    names = [one.key for one in every if one.key]
    known = names if "." not in key else [setting.key for one in every for setting in one.settings]
    raise ConfigError([f"settings {key}: there is no such section; {did_you_mean(key, known)}"])


def _sections(model: type[BaseModel], key: str) -> Iterable[Section]:
    fields = model.model_fields.items()
    plain = tuple(_setting(_joined(key, name), field) for name, field in fields if not _within(field))
    yield Section(key, inspect.cleandoc(model.__doc__ or ""), plain)
    for name, field in fields:
        if inner := _within(field):
            yield from _sections(inner, _joined(key, name))


def _within(field: FieldInfo) -> type[BaseModel] | None:
    return model_in(field.annotation)


def _joined(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _setting(key: str, field: FieldInfo) -> Setting:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    default = None if field.is_required() else field.default
    return Setting(
        key=key,
        default=default,
        required=field.is_required(),
        values=allowed(field),
        clock=str(extra.get("clock", "")),
        meaning=field.description or "",
        only_with=conditions_of(extra),
        presets={
            name: values[key] for name, values in _presets().items() if values.get(key, default) != default
        },
    )


@cache
def _presets() -> dict[str, dict[str, Any]]:
    """By algorithm, the settings of the sections that its preset speaks of, as they are with nothing else given."""
    found = {}
    for name, preset in PRESETS.items():
        tables = with_preset({"algorithm": name, "stop": {"uploads": 1}})
        values = Experiment.model_validate(tables).model_dump()
        found[name] = {
            f"{section}.{key}": value for section in preset for key, value in values[section].items()
        }
    return found
