"""What a trace says of the energy that its run took: measured, or why not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

KINDS = {"cpu": "processors (RAPL)", "gpu": "GPUs (NVML)"}
NOT_MEASURED = "not measured"


def energy(attributes: Mapping[str, Any], uploads: int | None) -> dict[str, float | None]:
    """cpu_joules, gpu_joules, and both per upload; None where not measured, or where there is no GPU."""
    found: dict[str, float | None] = {}
    for kind in KINDS:
        joules = _of(attributes, kind).get("joules")
        found[f"{kind}_joules"] = joules
        found[f"{kind}_joules_per_upload"] = joules / uploads if joules is not None and uploads else None
    return found


def energy_notes(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Of each kind that was not measured on every host: why, by host; {} where all were, or there was nothing."""
    found = {}
    for kind in KINDS:
        missing = _of(attributes, kind).get("not_measured") or {}
        if missing:
            found[kind] = "; ".join(f"{host}: {why}" for host, why in missing.items())
    return found


def _of(attributes: Mapping[str, Any], kind: str) -> dict[str, Any]:
    try:
        found = json.loads(attributes.get("energy", "{}")).get(kind, {})
    except (ValueError, AttributeError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
