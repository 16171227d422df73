"""How figures for print look, and how they are written."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from textwrap import wrap
from typing import Any, ParamSpec, TypeVar

from qafel_analysis.figures.palette import DASHES, colour, dash
from qafel_analysis.read.extras import extra

from qafel_mpi.outputs import whole

P = ParamSpec("P")
T = TypeVar("T")

_STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 200,
}
_MATPLOTLIB_DASH: dict[str, Any] = dict(
    zip(DASHES, ("-", "--", ":", "-.", (0, (8, 3)), (0, (8, 3, 2, 3))), strict=True)
)


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Draw in our style, and leave matplotlib's settings as they were. Raises MissingExtra without matplotlib."""

    @wraps(draw)
    def with_style(*args: P.args, **kwargs: P.kwargs) -> T:
        with extra("matplotlib").rc_context(_STYLE):
            return draw(*args, **kwargs)

    return with_style


def new_figure(width_in: float = 3.6, height_in: float = 2.3) -> tuple[Any, Any]:
    """(figure, axes) of a column's width, drawn without a display."""
    figure = extra("matplotlib.figure").Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.add_subplot()


def panels(count: int, width_in: float, each_in: float) -> tuple[Any, list[Any]]:
    """(figure, axes), one above the other, with one horizontal axis for all."""
    figure = extra("matplotlib.figure").Figure(
        figsize=(width_in, 0.6 + each_in * count), layout="constrained"
    )
    return figure, list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])


@styled
def save(figure: Any, path: Path) -> list[Path]:
    """Write path.pdf and path.png; the same data give the same PDF."""
    files = [path.with_name(path.name + suffix) for suffix in (".pdf", ".png")]
    about = {"CreationDate": None, "Creator": "qafel-analysis"}
    with whole(files[0]) as part:
        figure.savefig(part, format="pdf", metadata=about)
    with whole(files[1]) as part:
        figure.savefig(part, format="png")
    return files


def line_style(index: int) -> dict[str, Any]:
    return {"color": colour(index), "linestyle": _MATPLOTLIB_DASH[dash(index)]}


def wrapped(label: str, width: int = 64) -> str:
    """A long label in lines. It may have come from a file: a dollar is a dollar, not mathematics."""
    return "\n".join(wrap(label, width)).replace("$", r"\$") or label


def legend(figure: Any, count: int, columns: int = 1) -> None:
    """Below the axes, where there is more than one thing to tell apart; the figure grows by it."""
    if count < 2:
        return
    found = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    labels = [wrapped(label) for label in found]
    lines = sum(1 + label.count("\n") for label in labels) / columns
    figure.set_figheight(figure.get_figheight() + 0.145 * lines)
    figure.legend(list(found.values()), labels, loc="outside lower left", ncols=columns, handlelength=3)
