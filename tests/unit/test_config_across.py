"""Settings that another section makes idle, for every preset and every rule: no run has one of another value than its
default, whether a preset brings it, the experiment, or a trace."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from qafel_mpi.algorithms.presets import PRESETS
from qafel_mpi.codecs.config import CODEC_NAMES
from qafel_mpi.config import ConfigError, Experiment, load
from qafel_mpi.config_layers import merged
from qafel_mpi.config_listing import Setting, sections
from qafel_mpi.config_text import follow, nested, toml_value
from qafel_mpi.tasks.config import MODEL_NAMES

SETTINGS = {one.key: one for section in sections() for one in section.settings}


# What a type does not tell.
NAMED: dict[str, tuple[Any, ...]] = {
    "uplink.codec": CODEC_NAMES,
    "task.model": MODEL_NAMES,
    "clock.staleness": (None, {"kind": "constant", "max": 2}),
}

# What a setting needs beside it, for another reason than only_with.
NEEDED: dict[str, dict[Any, dict[str, Any]]] = {
    "uplink.codec": {
        "lattice": {"uplink.spacing": 0.5},
    },
    "clock.duration.speed_trend": {1: {"clock.duration.speed_sigma": 0.5}},
}


@dataclass(frozen=True)
class Rule:
    """`setting` has no effect with `other` = value."""

    setting: Setting
    other: str
    value: Any

    def __str__(self) -> str:
        return f"{self.setting.key}, {self.other}={self.value}"


def rules() -> Iterator[Rule]:
    """All that only_with says across sections, one for each value that the other setting must not have."""
    for setting in SETTINGS.values():
        for other, wanted in setting.only_with.items():
            if "." in other:
                yield from (Rule(setting, other, v) for v in values_of(other) if v not in wanted)


def values_of(key: str) -> list[Any]:
    """Values that a setting may have, all where it is a choice."""
    if key in NAMED:
        return list(NAMED[key])
    field, choices = field_of(key), [True, False, 1, 2, 0.25, 0.75, "a.csv", Path("a.csv"), (0.5, 0.5)]
    for option in (field.annotation, *typing.get_args(field.annotation)):
        if typing.get_origin(option) is typing.Literal:
            choices += typing.get_args(option)
    return [value for value in choices if fits(value, field)]


def fits(value: Any, field: FieldInfo) -> bool:
    whole: Any = typing.Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    try:
        TypeAdapter(whole).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def field_of(key: str) -> FieldInfo:
    _, field, _ = follow(tuple(key.split(".")), Experiment)
    assert field is not None
    return field


def with_needed(key: str, value: Any) -> dict[str, Any]:
    """This setting, with what it needs of its own section and by NEEDED."""
    section = key.rpartition(".")[0]
    inner = {f"{section}.{k}": v[0] for k, v in SETTINGS[key].only_with.items() if "." not in k}
    more = NEEDED[key].get(value, {}) if key in NEEDED else {}
    return {**inner, **more, key: value}


def with_other(rule: Rule) -> dict[str, Any]:
    """The other setting, which may be a table, with what it needs."""
    if rule.other in SETTINGS:
        return with_needed(rule.other, rule.value)
    return {rule.other: rule.value}


def get(experiment: Experiment, key: str) -> Any:
    return reduce(getattr, key.split("."), experiment)


RULES = list(rules())


def test_the_rules_are_those_of_the_issue_and_more() -> None:
    named = {(rule.setting.key, rule.other) for rule in RULES}
    assert ("server.calibration", "staleness.weight") in named
    assert {("client.error_feedback", "uplink.codec"), ("client.error_feedback", "server.update")} <= named
    refused = {rule.value for rule in RULES if rule.setting.key == "client.error_feedback"}
    assert {"identity", "lattice", "model"} <= refused


@pytest.mark.parametrize("algorithm", PRESETS)
def test_no_preset_keeps_what_another_section_makes_idle(tmp_path: Path, algorithm: str) -> None:
    """An algorithm and one setting more: refused, or nothing without effect is left."""
    path = tmp_path / "mine.toml"
    path.write_text(f"algorithm = '{algorithm}'\n[stop]\nuploads = 10\n", encoding="utf-8")
    for rule in RULES:
        if rule.value is None:
            continue
        key, brought = rule.setting.key, algorithm in rule.setting.presets
        try:
            made = load(str(path), [f"{k}={toml_value(v)}" for k, v in with_other(rule).items()])
        except ConfigError as error:
            said = "has no effect" in str(error) or "does not go with server.pull" in str(error)
            assert said or not brought, rule
            continue
        assert not brought, f"{rule}: {algorithm} brings it"
        assert get(made, key) == field_of(key).default or get(made, rule.other) != rule.value, rule


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Each algorithm's experiment, as a trace has it: every setting given."""
    path = tmp_path_factory.mktemp("mine") / "mine.toml"
    path.write_text("[stop]\nuploads = 10\n", encoding="utf-8")
    return [load(str(path), [f"algorithm={one}"]).model_dump(exclude_none=True) for one in PRESETS]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_whole_experiment_with_what_has_no_effect_is_refused(rule: Rule, wholes: list[dict[str, Any]]):
    """Whatever its algorithm; and with one at least nothing is wrong with it but this."""
    key = rule.setting.key
    value = next(v for v in values_of(key) if v != field_of(key).default)
    given = with_needed(key, value) | with_other(rule)
    said = set()
    for whole in wholes:
        for name, one in given.items():
            whole = merged(whole, nested(tuple(name.split(".")), one), settle=False)
        with pytest.raises(ValidationError) as caught:
            Experiment.model_validate(whole)
        said.add(str(caught.value))
    assert any(f"{key} = " in one and "it has no effect with" in one for one in said), said
