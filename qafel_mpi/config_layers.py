"""Layers of settings as nested tables. The higher one wins: preset, experiment, variant, `--set`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qafel_mpi.algorithms.presets import PRESETS
from qafel_mpi.config_text import Keys

_CODEC_OPTIONS = ("bits", "levels", "scale", "bucket", "fraction", "entropy")

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


def with_preset(tables: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """preset < tables < upper; where upper names another algorithm, tables give way to its preset."""
    below = tables.get("algorithm", "qafel")
    algorithm = upper.get("algorithm", below)
    preset = PRESETS.get(algorithm, {}) if isinstance(algorithm, str) else {}
    if algorithm != below:
        tables = _giving_way(tables, preset)
    return merged(merged(preset, tables), upper)


def _giving_way(tables: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
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
            quantizer = {"codec", *_CODEC_OPTIONS}
            decided = decided | quantizer if exact or own.get("codec") == "identity" else decided - quantizer
        kept[section] = {key: value for key, value in own.items() if key not in decided}
    return kept


def merged(
    lower: Mapping[str, Any], upper: Mapping[str, Any], path: Keys = (), settle: bool = True
) -> dict[str, Any]:
    """Nested tables, the upper one's values over the lower one's; `settle`: with what these void."""
    result = dict(lower)
    for key, value in upper.items():
        if settle and result.get(key) != value:
            for void in _voided((*path, key), value):
                result.pop(void, None)
    for key, value in upper.items():
        under = result.get(key)
        if isinstance(value, Mapping) and isinstance(under, Mapping):
            value = merged(under, value, (*path, key), settle)
        result[key] = value
    return result


def _voided(keys: Keys, value: Any) -> tuple[str, ...]:
    if keys == ("downlink", "mode") and value == "none":
        return ("codec", *_CODEC_OPTIONS)  # the full model goes out
    return _VOIDS.get(keys, ())
