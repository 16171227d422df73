"""What a setting says of itself beside its type, bounds and description.

A config model gives these words to pydantic's `json_schema_extra`:

    momentum: float = Field(0.0, ge=0, description="…", json_schema_extra=BOTH | only_with(optimizer="sgd"))

config_listing.py turns them into `qafel-mpi settings` and docs/settings.md; config_idle.py refuses a setting that was
given and has no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

# The clock on which a setting has an effect.
BOTH: dict[str, Any] = {"clock": "both"}
WALL: dict[str, Any] = {"clock": "wall"}
VIRTUAL: dict[str, Any] = {"clock": "virtual"}

LARGEST = 1e30  # of a factor: its products stay far from float32's end
OWN = "module:name"  # in only_with: code of the user's own, which sees all settings
_OURS = "vectors:"  # looks like code of the user's own, and is not


def takes(values: str) -> dict[str, Any]:
    """The values that a setting takes, in words, where its type does not tell."""
    return {"values": values}


def only_with(conditions: Mapping[str, Any] | None = None, /, **more: Any) -> dict[str, Any]:
    """Where a setting has an effect: by the key of another one, the value or values that this must have.

    A key without a dot is a setting of the same section, one with dots leads from the experiment. None: not set.

    >>> only_with({"server.synchronous": False}, start=("constant", "poisson"))
    {'only_with': {'server.synchronous': [False], 'start': ['constant', 'poisson']}}
    """
    every = {**(conditions or {}), **more}
    lists = {
        key: list(v) if isinstance(v, Sequence) and not isinstance(v, str) else [v]
        for key, v in every.items()
    }
    return {"only_with": lists}


def conditions_of(extra: Any) -> dict[str, list[Any]]:
    """The conditions in a field's json_schema_extra; {} where it always has an effect."""
    found = extra.get("only_with", {}) if isinstance(extra, Mapping) else {}
    return dict(found)


def failing(conditions: Mapping[str, Sequence[Any]], value_of: Callable[[str], Any]) -> str | None:
    """The first key whose value is not as the conditions want it."""
    return next((key for key, wanted in conditions.items() if not _matches(value_of(key), wanted)), None)


def no_effect(key: str, value: Any, wanted: Sequence[Any]) -> str:
    """The end of a sentence about a setting without effect.

    >>> no_effect("codec", "identity", ["qsgd", "affine"])
    "has no effect with codec = 'identity', only with codec = 'qsgd' or 'affine'"
    >>> no_effect("levels", 5, [None])
    'has no effect with levels = 5, only without levels'
    """
    given = f"without {key}" if value is None else f"with {key} = {shown(value)}"
    return f"has no effect {given}, only {in_words(key, wanted)}"


def in_words(key: str, wanted: Sequence[Any]) -> str:
    """A condition: "with codec = 'qsgd' or 'affine'", "without levels"."""
    return f"without {key}" if wanted == [None] else f"with {key} = {' or '.join(map(shown, wanted))}"


def shown(value: Any) -> str:
    """A value as TOML has it, but for quotes and tables."""
    if isinstance(value, bool):
        return str(value).lower()
    return "a table" if isinstance(value, BaseModel | Mapping) else repr(value)


def _matches(value: Any, wanted: Iterable[Any]) -> bool:
    own = isinstance(value, str) and ":" in value and not value.startswith(_OURS)
    return any(value == one or (one == OWN and own) for one in wanted)


class Settings(BaseModel):
    """A section of an experiment: frozen, without unknown keys, and without settings that another one makes idle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="after")
    def _nothing_idle(self) -> Settings:
        """A default that has no effect passes: a whole experiment, as a trace has it, gives every setting."""
        for name in self.model_fields_set & type(self).model_fields.keys():
            field = type(self).model_fields[name]
            conditions = {k: v for k, v in conditions_of(field.json_schema_extra).items() if "." not in k}
            key = failing(conditions, lambda key: getattr(self, key))
            if key is not None and getattr(self, name) != field.default:
                raise ValueError(f"{name} {no_effect(key, getattr(self, key), conditions[key])}")
        return self
