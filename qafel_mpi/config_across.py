"""Settings of a whole experiment that another section makes idle, wherever they come from: a preset, a trace, code.

Within a section its own model looks at them (setting.py). A default passes: a trace gives every setting.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

from pydantic import BaseModel

from qafel_mpi.config_idle import settings_in
from qafel_mpi.config_text import follow
from qafel_mpi.setting import conditions_of, failing, no_effect, shown


def idle_across(experiment: BaseModel) -> Iterator[str]:
    """What has no effect and another value than its default, with the reason."""

    def value_of(key: str) -> Any:
        return reduce(getattr, key.split("."), experiment)

    for keys in settings_in(experiment.model_dump(), type(experiment)):
        _, field, _ = follow(keys, type(experiment))
        assert field is not None
        conditions = {k: v for k, v in conditions_of(field.json_schema_extra).items() if "." in k}
        other, value = failing(conditions, value_of), value_of(".".join(keys))
        if other is not None and value != field.default:
            reason = no_effect(other, value_of(other), conditions[other])
            yield f"{'.'.join(keys)} = {shown(value)}: it {reason}"
