"""A block of docs/results.md: what one bit each way does to the transformer's first server steps."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from docs.render.headline import setting
from docs.render.pages import table
from docs.render.records import content, digits, measured, not_measured, origin

_CURVES = {"loss": "loss", "step_norm": "length of a step", "gap": "‖x − x̂‖"}
RECORDS = tuple(f"headline-causes-{y}" for y in _CURVES)
_PARTS = 3  # of the steps: means of a part say more than single ones, where the loss goes up and down


def causes() -> str:
    """Loss, length of a step and lag of the hidden state, by what is quantized."""
    if not all(map(measured, RECORDS)):
        return not_measured("headline_causes")
    curves = [content(record) for record in RECORDS]
    first = curves[0][0]
    steps = [int(x) for x in first["x"]]
    parts = [steps[i * len(steps) // _PARTS : (i + 1) * len(steps) // _PARTS] for i in range(_PARTS)]
    header = ("", *(f"{y}, steps {part[0]} to {part[-1]}" for y in _CURVES.values() for part in parts))
    lines = sorted(
        (setting(one["setting"]), *(_mean(own, one["setting"], part) for own in curves for part in parts))
        for one in curves[0]
    )
    seeds = len(first["seeds"])
    said = "One seed." if seeds == 1 else f"Means over {seeds} seeds."
    return f"{said}\n\n{table(header, lines, right=range(1, len(header)))}\n\n{origin(*RECORDS)}"


def _mean(found: list[dict[str, Any]], label: str, part: list[int]) -> str:
    """Of a setting's curve, over these steps and all seeds."""
    (own,) = (one for one in found if one["setting"] == label)
    at = [own["x"].index(step) for step in part]
    return digits(fmean(values[i] for values in own["values"] for i in at))
