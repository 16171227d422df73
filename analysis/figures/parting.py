"""The picture of two runs of one experiment that part: how far apart their server steps are."""

from __future__ import annotations

from typing import Any

import numpy as np
from qafel_analysis.figures.style import legend, line_style, new_figure, styled
from qafel_analysis.tables.parting import MEASURED

LABELS = {"loss": "loss", "step_norm": "norm of the step", "gap": "gap of the hidden state"}


@styled
def parting(apart: dict[str, np.ndarray], step: int | None) -> Any:
    """|difference| by version, on a logarithmic axis; a line where the first one is. apart: steps_apart's."""
    figure, axes = new_figure(height_in=2.6)
    shown = 0
    for index, name in enumerate(MEASURED):
        known = ~np.isnan(apart[name])
        values = apart[name][known]
        if len(values):
            axes.plot(apart["version"][known], values, label=LABELS[name], **line_style(index))
            shown += 1
    axes.set_yscale("symlog", linthresh=_smallest(apart))
    if step is not None:
        axes.axvline(step, color="0.5", linewidth=0.8)
    axes.set_xlabel("server step")
    axes.set_ylabel("difference between the runs")
    legend(figure, shown)
    return figure


def _smallest(apart: dict[str, np.ndarray]) -> float:
    """The smallest difference that there is, from where the axis is logarithmic."""
    values = np.concatenate([apart[name][apart[name] > 0] for name in MEASURED])
    return float(values.min()) if len(values) else 1e-12
