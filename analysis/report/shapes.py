"""What the report's figures are made of, in plotly's words."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from qafel_analysis.figures.palette import colour, dash

Trace = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """One choice of a figure's menus, and what it shows."""

    choice: tuple[str, ...]
    traces: list[Trace]
    layout: dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """A figure of the page. menus: the names of what can be chosen, one tuple a menu."""

    name: str
    title: str
    caption: str
    variants: list[Variant]
    menus: tuple[tuple[str, ...], ...] = ()
    height_px: int = 380
    wide: bool = False


def line(label: str, k: int) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": escape(label),
        "legendgroup": str(k),
        "line": {"color": colour(k), "dash": dash(k), "width": 2},
    }


def axes(x: str, y: str, *, x_log: bool = False, y_log: bool = False) -> dict[str, Any]:
    def axis(title: str, log: bool) -> dict[str, Any]:
        return {"title": {"text": title}} | ({"type": "log", "exponentformat": "power"} if log else {})

    return {"xaxis": axis(x, x_log), "yaxis": axis(y, y_log)}


def short(values: Any) -> list[float | None]:
    """Five digits, which is more than a screen shows; null for what is not there.

    >>> short([1.23456789, float("nan"), None])
    [1.2346, None, None]
    """
    array = np.asarray(values, dtype=float)
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in array]
