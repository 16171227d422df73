"""Figures for print: frames in, matplotlib figures out; no titles, for the caption says what is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd
from qafel_analysis.compare import Group
from qafel_analysis.convergence import AGAINST, Band
from qafel_analysis.palette import ACTIVITY_COLOURS, DASHES, MARKERS, colour, dash, extra
from qafel_analysis.timeline import ACTIVITIES, Window
from qafel_analysis.traffic import Traffic

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
    "savefig.bbox": "tight",
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


def new_figure(width_in: float = 3.6, height_in: float = 2.8) -> tuple[Any, Any]:
    """(figure, axes) of a column's width, drawn without a display."""
    figure = extra("matplotlib.figure").Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.add_subplot()


@styled
def save(figure: Any, path: Path) -> list[Path]:
    """Write path.pdf and path.png; the same data give the same PDF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(path.name + suffix) for suffix in (".pdf", ".png")]
    figure.savefig(files[0], metadata={"CreationDate": None, "Creator": "qafel-analysis"})
    figure.savefig(files[1])
    return files


def _line_style(index: int) -> dict[str, Any]:
    return {"color": colour(index), "linestyle": _MATPLOTLIB_DASH[dash(index)]}


def _legend(figure: Any, count: int, columns: int = 1) -> None:
    if count > 1:
        figure.legend(loc="outside lower left", ncols=columns, handlelength=3)


@styled
def convergence(bands: Sequence[Band], x: str, y: str) -> Any:
    """Median over seeds, and the band from the smallest to the largest."""
    figure, axes = new_figure()
    in_bytes = "bytes" in x
    _draw_bands(axes, bands, 1e-6 if in_bytes else 1.0)
    axes.set(xlabel=AGAINST[x] + (" (MB)" if in_bytes else ""), ylabel=y.replace("_", " "))
    if y in ("loss", "gradient_norm_squared") and all((b.median > 0).all() for b in bands):
        axes.set_yscale("log")
    _legend(figure, len(bands))
    return figure


def _draw_bands(axes: Any, bands: Sequence[Band], x_unit: float = 1.0) -> None:
    for k, b in enumerate(bands):
        axes.plot(x_unit * b.x, b.median, label=b.label, **_line_style(k))
        if b.runs > 1:
            axes.fill_between(x_unit * b.x, b.low, b.high, color=colour(k), alpha=0.15, linewidth=0)


@styled
def gap(bands: Sequence[Band]) -> Any:
    """‖x − x̂‖ over server steps."""
    figure, axes = new_figure()
    _draw_bands(axes, bands)
    axes.set(xlabel="server steps", ylabel=r"$\|x-\hat{x}\|_2$", yscale="log")
    _legend(figure, len(bands))
    return figure


@styled
def bytes_to_target(groups: Sequence[Group], count: str = "payload") -> Any:
    """Bars of bytes up and down to the target, with the spread over seeds; settings that never reached it are
    named without a bar."""
    figure, axes = new_figure(7.2, 1.1 + 0.42 * len(groups))
    at = np.arange(len(groups))
    for k, (way, name) in enumerate((("up", "up"), ("down", "down, by broadcast"))):
        means = [g.mean(f"{count}_bytes_{way}") or np.nan for g in groups]
        errors = [g.spread(f"{count}_bytes_{way}") or 0.0 for g in groups]
        offset = 0.2 * (2 * k - 1)
        axes.barh(
            at + offset,
            np.array(means) / 1e6,
            0.4,
            xerr=np.array(errors) / 1e6,
            color=colour(k),
            hatch=("", "///")[k],
            edgecolor="white",
            label=name,
            error_kw={"linewidth": 0.8},
        )
    labels = [
        g.label + ("" if g.reached else "\n(never reached)") + (f"\n{g.target}" if g.target else "")
        for g in groups
    ]
    axes.set(yticks=at, yticklabels=labels, xlabel=f"{count} bytes to the target (MB)")
    axes.invert_yaxis()
    _legend(figure, 2)
    return figure


@styled
def trade_off(points: pd.DataFrame) -> Any:
    """Client bits × server bits: uploads against bytes, with the front of what no other setting beats in both.

    points: label, uploads, bytes, front (bool).
    """
    figure, axes = new_figure()
    front = points[points["front"]].sort_values("bytes")
    axes.step(front["bytes"] / 1e6, front["uploads"], where="post", color="#999999", linewidth=0.8, zorder=1)
    for k, point in enumerate(points.itertuples()):
        axes.scatter(
            point.bytes / 1e6,
            point.uploads,
            color=colour(k),
            marker=MARKERS[k % len(MARKERS)],
            s=26,
            facecolors=colour(k) if point.front else "none",
            zorder=2,
        )
        axes.annotate(
            point.label,
            (point.bytes / 1e6, point.uploads),
            textcoords="offset points",
            xytext=(4, 3),
            fontsize=7,
        )
    axes.set(xlabel="payload bytes to the target, up and down (MB)", ylabel="uploads to the target")
    if points["bytes"].max() > 20 * points["bytes"].min():
        axes.set_xscale("log")
    axes.margins(0.12)
    return figure


@styled
def staleness(counts: Sequence[tuple[str, np.ndarray]]) -> Any:
    """Share of updates by staleness."""
    figure, axes = new_figure()
    for k, (label, count) in enumerate(counts):
        share = count / max(count.sum(), 1)
        axes.stairs(share, np.arange(len(count) + 1) - 0.5, label=label, baseline=None, **_line_style(k))
    axes.set(xlabel="staleness (server steps)", ylabel="share of updates", ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(figure, len(counts))
    return figure


@styled
def timeline(intervals: pd.DataFrame, window: Window) -> Any:
    """A lane per rank; sends as thin lines below, for they go on beside the rest."""
    ranks = sorted(intervals["rank"].unique())
    figure, axes = new_figure(7.2, 0.9 + 0.3 * len(ranks))
    for activity in ("wait", "train", "encode", "decode", "send"):
        rows = intervals[intervals["activity"] == activity]
        height, shift = (0.12, -0.42) if activity == "send" else (0.6, -0.25)
        for lane, rank in enumerate(ranks):
            own = rows[rows["rank"] == rank]
            spans = np.column_stack([own["begin_s"], own["end_s"] - own["begin_s"]])
            axes.broken_barh(
                spans, (-lane + shift, height), color=ACTIVITY_COLOURS[activity], linewidth=0, rasterized=True
            )
        axes.plot([], [], color=ACTIVITY_COLOURS[activity], linewidth=5, label=activity)
    axes.set(
        xlim=(window.begin_s, window.end_s),
        yticks=[-lane for lane in range(len(ranks))],
        yticklabels=[f"rank {rank}" for rank in ranks],
        xlabel="seconds since the run began",
    )
    axes.grid(False)
    _legend(figure, len(ACTIVITIES), columns=len(ACTIVITIES))
    return figure


@styled
def links(traffic: Traffic) -> Any:
    """Wire bytes by link, senders down, receivers across."""
    size = 1.6 + min(3.4, 0.25 * len(traffic.wire_bytes))
    figure, axes = new_figure(size + 0.8, size)
    sent = np.where(traffic.wire_bytes > 0, traffic.wire_bytes / 1e6, np.nan)
    image = axes.imshow(sent, cmap="cividis", norm="log" if np.nansum(sent) > 0 else None)
    figure.colorbar(image, ax=axes, label="wire bytes (MB)")
    axes.set(xlabel="to rank", ylabel="from rank")
    axes.grid(False)
    for ticks in (axes.xaxis, axes.yaxis):
        ticks.get_major_locator().set_params(integer=True)
    return figure


@styled
def latency(frame: pd.DataFrame) -> Any:
    """Share of messages that arrived within a time of their post; grey: what the clocks can't tell from zero."""
    figure, axes = new_figure()
    if len(bound := frame["bound_s"].dropna()):
        axes.axvspan(1e-9, bound.max(), color="#BBBBBB", alpha=0.5, linewidth=0, label="clock error bound")
    for k, (kind, rows) in enumerate(frame.groupby("kind")):
        seconds = np.sort(rows["seconds"].to_numpy())
        share = np.arange(1, len(seconds) + 1) / len(seconds)
        visible = seconds > 0
        axes.plot(seconds[visible], share[visible], label=kind, drawstyle="steps-post", **_line_style(k))
    axes.set(xscale="log", xlabel="from post to arrival (s)", ylabel="share of messages", ylim=(0, 1.02))
    positive = frame["seconds"][frame["seconds"] > 0]
    if len(positive):
        axes.set_xlim(left=min(positive.min(), bound.max() if len(bound) else np.inf) / 2)
    _legend(figure, 2)
    return figure


@styled
def roofline(rows: pd.DataFrame) -> Any:
    """Throughput of each codec operation by vector length, below what the reference moves (dotted)."""
    figure, axes = new_figure()
    labels = list(dict.fromkeys(rows["label"]))
    for k, label in enumerate(labels):
        own = rows[rows["label"] == label]
        axes.plot(own["d"], own["gb_per_s"], marker=MARKERS[k % len(MARKERS)], markersize=3, label=label,
                  **_line_style(k))  # fmt: skip
        axes.plot(own["d"], own["roof_gb_per_s"], color=colour(k), linestyle=":", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="elements", ylabel="GB/s (dotted: its reference)")
    _legend(figure, len(labels))
    return figure


@styled
def scaling(points: pd.DataFrame) -> Any:
    """Uploads a second by client ranks; dotted: in proportion to the smallest number. points: label, clients,
    rate."""
    figure, axes = new_figure()
    for k, (label, rows) in enumerate(points.groupby("label", sort=False)):
        mean = rows.groupby("clients")["rate"].mean()
        axes.plot(
            mean.index, mean, marker=MARKERS[k % len(MARKERS)], markersize=3, label=label, **_line_style(k)
        )
        first = mean.index[0]
        axes.plot(
            mean.index, mean.iloc[0] * mean.index / first, color=colour(k), linestyle=":", linewidth=0.8
        )
    axes.set(
        xscale="log", yscale="log", xlabel="client ranks", ylabel="uploads per second (dotted: proportional)"
    )
    _legend(figure, points["label"].nunique())
    return figure
