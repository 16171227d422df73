"""Settings that were given and have no effect: `only_with` and the clock of each field say which these are.

What a higher layer makes idle in a lower one is left out: `--set task.model=logistic` on an experiment that gives
task.hidden for its mlp. What is idle in the layer that gives it, or in a higher one, is refused, whatever its value.
config_across.py looks at the whole experiment, with what a preset brings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from qafel_mpi.config_layers import Tables, given_by, layer_of, with_preset
from qafel_mpi.config_text import Keys, follow, model_in
from qafel_mpi.setting import conditions_of, failing, no_effect


@dataclass(frozen=True)
class Idle:
    """A setting without effect, the one that makes it so, and the reason as the end of a sentence."""

    keys: Keys
    because_of: Keys
    reason: str


def without_voided(layers: Sequence[Tables], model: type[BaseModel]) -> dict[str, Any]:
    """The settings that the layers give, without those of lower layers that a higher one makes idle."""
    given = given_by(layers)
    for idle in idle_settings(given, model):
        if layer_of(idle.keys, layers) < layer_of(idle.because_of, layers):
            given = without(given, idle.keys)
    return given


def idle_settings(given: Tables, model: type[BaseModel]) -> list[Idle]:
    """The given settings that have no effect with the others and the preset. model: of the experiment."""
    tables = with_preset(given)
    found = (_idle(keys, tables, model) for keys in settings_in(given, model))
    return [idle for idle in found if idle is not None]


def of_the_other_clock(keys: Keys, clock: str, model: type[BaseModel]) -> str | None:
    """Why a setting has no effect on this clock, wall or virtual; None where it has one."""
    own = _extra(keys, model).get("clock", "both")
    return (
        None if own in ("both", clock) else f"it has no effect on the {clock} clock, only on the {own} clock"
    )


def settings_in(tables: Tables, model: type[BaseModel], path: Keys = ()) -> Iterator[Keys]:
    """The settings that the tables give; unknown keys are none."""
    for key, value in tables.items():
        if (field := model.model_fields.get(key)) is None:
            continue
        inner = model_in(field.annotation)
        if inner is not None and isinstance(value, Mapping):
            yield from settings_in(value, inner, (*path, key))
        elif inner is None:
            yield (*path, key)


def without(tables: Tables, keys: Keys) -> dict[str, Any]:
    """The tables without one setting."""
    first, *rest = keys
    if not rest:
        return {key: value for key, value in tables.items() if key != first}
    return {**tables, first: without(tables[first], tuple(rest))}


def _idle(keys: Keys, tables: Tables, model: type[BaseModel]) -> Idle | None:
    conditions = conditions_of(_extra(keys, model))
    places = {key: tuple(key.split(".")) if "." in key else (*keys[:-1], key) for key in conditions}
    key = failing(conditions, lambda key: _value(places[key], tables, model))
    if key is None:
        return None
    place = places[key]
    reason = no_effect(".".join(place), _value(place, tables, model), conditions[key])
    return Idle(keys, place, f"it {reason}")


def _extra(keys: Keys, model: type[BaseModel]) -> Mapping[str, Any]:
    _, field, _ = follow(keys, model)
    extra = field.json_schema_extra if field is not None else None
    return extra if isinstance(extra, Mapping) else {}


def _value(keys: Keys, tables: Any, model: type[BaseModel]) -> Any:
    """A setting's value in tables that are not checked yet, or its default."""
    for key in keys:
        if not isinstance(tables, Mapping) or key not in tables:
            _, field, _ = follow(keys, model)
            return None if field is None or field.is_required() else field.default
        tables = tables[key]
    return tables
