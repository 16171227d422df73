"""A block of docs/results.md: what one bit each way does to the transformer's first server steps."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from docs.render.headline import setting
from docs.render.pages import table
from docs.render.records import content, digits, measured, not_measured, origin

# What all but a few settings have, and what a label says of the rest.
_SAID = {
    ", client.schedule.warmup = 0": "",
    ", server.learning_rate = 1.0": "",
    "client.schedule.warmup = 8": "rates that rise over 8 steps",
    "server.learning_rate = 0.5": "half the server's rate",
}
RECORDS = tuple(f"headline-causes-{y}" for y in ("loss", "step_norm", "gap"))


def causes() -> str:
    """The loss after each step, and the length and the lag of the last one, by what is quantized."""
    if not all(map(measured, RECORDS)):
        return not_measured("headline_causes")
    losses, lengths, gaps = map(content, RECORDS)
    steps = [int(x) for x in losses[0]["x"]]
    header = (
        "",
        *(f"loss after step {step}" for step in steps),
        f"length of step {steps[-1]}",
        "‖x − x̂‖ after it",
    )
    lines = sorted(
        (
            said(one["setting"]),
            *(digits(mean) for mean in _means(losses, one["setting"])),
            *(digits(_means(of_all, one["setting"])[-1]) for of_all in (lengths, gaps)),
        )
        for one in losses
    )
    seeds = len(losses[0]["seeds"])
    many = "One seed." if seeds == 1 else f"Means over {seeds} seeds."
    return f"{many}\n\n{table(header, lines, right=range(1, len(header)))}\n\n{origin(*RECORDS)}"


def said(label: str) -> str:
    """
    >>> said("fedbuff, float32 up, float32 down, K = 10, client.schedule.warmup = 8, server.learning_rate = 1.0")
    'fedbuff, float32, rates that rise over 8 steps'
    """
    found = setting(label)
    for part, words in _SAID.items():
        found = found.replace(part, words)
    return found


def _means(found: list[dict[str, Any]], label: str) -> list[float]:
    """Of a setting's curve at each step, over the seeds."""
    (own,) = (one for one in found if one["setting"] == label)
    return [fmean(values) for values in zip(*own["values"], strict=True)]
