"""Layers of settings as nested tables, the lowest first: the experiment, a variant, `--set`. The higher one wins.

Below them all lies the preset of the algorithm. A layer that names *another* algorithm than the layers below it
brings that algorithm's preset over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qafel_mpi.algorithms.presets import PRESETS
from qafel_mpi.config_text import Keys

Tables = Mapping[str, Any]

_CODEC_OPTIONS = (
    *(
        "bits",
        "levels",
        "scale",
        "bucket",
        "fraction",
        "spacing",
        "rotations",
        "rotation",
        "format",
        "rounding",
        "transform",
        "entropy",
        "options",
    ),
)

# A higher layer that changes the setting on the left voids what lower layers said of those on the right:
# `--set uplink.codec=topk` does not inherit qsgd's bits, `--set client.local_steps=5` replaces local_epochs.
_VOIDS: dict[Keys, tuple[str, ...]] = {
    ("uplink", "codec"): _CODEC_OPTIONS,
    ("uplink", "bits"): ("levels",),
    ("uplink", "levels"): ("bits",),
    ("downlink", "codec"): _CODEC_OPTIONS,
    ("downlink", "bits"): ("levels",),
    ("downlink", "levels"): ("bits",),
    ("client", "local_epochs"): ("local_steps",),
    ("client", "local_steps"): ("local_epochs",),
    ("evaluation", "every_steps"): ("per_epoch",),
    ("evaluation", "per_epoch"): ("every_steps",),
    ("task", "partition", "kind"): ("alpha", "shards_per_client"),
    ("clock", "rate"): ("concurrency",),
    ("clock", "concurrency"): ("rate",),
    ("clock", "start"): ("rate", "limit"),
    ("clock", "duration", "kind"): ("path",),
}


def given_by(layers: Sequence[Tables]) -> dict[str, Any]:
    """The settings that the layers give and no higher one of them has made void."""
    given: dict[str, Any] = {}
    for layer in layers:
        given = _over(given, layer)
    return given


def with_preset(given: Tables) -> dict[str, Any]:
    """The given settings over the preset of their algorithm, with the codec that a full model is sent by."""
    tables = merged(preset_of(given), given)
    downlink = _table(tables, "downlink")
    if downlink.get("mode") == "none" and "codec" not in downlink:
        tables["downlink"] = {**downlink, "codec": "identity"}
    return tables


def preset_of(tables: Tables) -> dict[str, Any]:
    """The preset of the algorithm that the tables name; {} for an unknown one."""
    algorithm = tables.get("algorithm", "qafel")
    return PRESETS.get(algorithm, {}) if isinstance(algorithm, str) else {}


def layer_of(keys: Keys, layers: Sequence[Tables]) -> int:
    """The number of the highest layer that gives this setting, itself or by the algorithm that it names; -1: none."""
    numbers = [n for n, layer in enumerate(layers) if _has(layer, keys)]
    names = [n for n, layer in enumerate(layers) if "algorithm" in layer]
    if names and _has(preset_of(layers[names[-1]]), keys):
        numbers.append(names[-1])
    return max(numbers, default=-1)


def _has(tables: Any, keys: Keys) -> bool:
    for key in keys:
        if not isinstance(tables, Mapping) or key not in tables:
            return False
        tables = tables[key]
    return True


def _over(lower: Tables, upper: Tables) -> dict[str, Any]:
    """The upper layer over lower ones; where it names another algorithm, these give way to its preset."""
    below = lower.get("algorithm", "qafel")
    algorithm = upper.get("algorithm", below)
    preset = preset_of({"algorithm": algorithm})
    if algorithm != below:
        lower = _giving_way(lower, preset)
    return merged(lower, upper, effective=merged(preset, lower))


def _giving_way(tables: Tables, preset: Tables) -> dict[str, Any]:
    """`tables` without the settings that the preset of another algorithm decides.

    Where both quantize a link, the experiment's quantizer stays: naive in qafel's place differs from it in
    the downlink's mode alone.
    """
    kept = dict(tables)
    for section in preset.keys() & tables.keys():
        decided, own = set(preset[section]), tables[section]
        if not isinstance(own, Mapping):
            continue
        if section in ("uplink", "downlink"):
            exact = preset[section].get("codec") == "identity" or preset[section].get("mode") == "none"
            quantizer = {"codec", "rules", *_CODEC_OPTIONS}
            decided = decided | quantizer if exact or own.get("codec") == "identity" else decided - quantizer
        kept[section] = {key: value for key, value in own.items() if key not in decided}
    return kept


def merged(
    lower: Tables, upper: Tables, path: Keys = (), *, settle: bool = True, effective: Tables | None = None
) -> dict[str, Any]:
    """Nested tables, the upper one's values over the lower one's; `settle`: with what these void.

    effective: the lower one with what lies below it: a value that is there already voids nothing.
    """
    result = dict(lower)
    effective = lower if effective is None else effective
    for key, value in upper.items():
        if settle and effective.get(key) != value:
            for void in _voided((*path, key), value):
                result.pop(void, None)
    for key, value in upper.items():
        under = result.get(key)
        if isinstance(value, Mapping) and isinstance(under, Mapping):
            value = merged(under, value, (*path, key), settle=settle, effective=_table(effective, key))
        result[key] = value
    return result


def _table(tables: Tables, key: str) -> Tables:
    found = tables.get(key)
    return found if isinstance(found, Mapping) else {}


def _voided(keys: Keys, value: Any) -> tuple[str, ...]:
    if keys == ("downlink", "mode") and value == "none":
        return ("codec", "rules", *_CODEC_OPTIONS)  # the full model goes out
    return _VOIDS.get(keys, ())
