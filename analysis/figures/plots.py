"""Figures for print: frames in, matplotlib figures out; no titles, for the caption says what is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from qafel_analysis.figures.axes import AGAINST
from qafel_analysis.figures.convergence import Band
from qafel_analysis.figures.palette import ACTIVITY_COLOURS, COLOURS, MARKERS, colour
from qafel_analysis.figures.style import legend, line_style, new_figure, panels, styled, wrapped
from qafel_analysis.read.timeline import ACTIVITIES, Window
from qafel_analysis.read.traffic import Traffic
from qafel_analysis.tables.compare import Group

_BESIDE = (0, (1, 3))  # sparser dots than those of any setting
_NAMED_POINTS = 8  # more names on the points themselves would hide one another
_MOST_LINKS = 1000  # ranks a side of the link matrix; beyond, neighbours are added up
_NUMBERED_RANKS = 10  # so many fit into a link matrix with numbers
FEWEST_MESSAGES = 20  # of which a distribution is drawn


@styled
def convergence(bands: Sequence[Band], x: str, y: str) -> Any:
    """Median over seeds, and the band from the smallest to the largest."""
    figure, axes = new_figure()
    in_bytes = "bytes" in x
    _draw_bands(axes, bands, 1e-6 if in_bytes else 1.0)
    axes.set(xlabel=AGAINST[x] + (" (MB)" if in_bytes else ""), ylabel=y.replace("_", " "))
    if y in ("loss", "gradient_norm_squared") and all((b.median > 0).all() for b in bands):
        axes.set_yscale("log")
    legend(figure, len(bands))
    return figure


def _draw_bands(axes: Any, bands: Sequence[Band], x_unit: float = 1.0) -> None:
    for k, b in enumerate(bands):
        axes.plot(x_unit * b.x, b.median, label=b.label, **line_style(k))
        if b.runs > 1:
            axes.fill_between(x_unit * b.x, b.low, b.high, color=colour(k), alpha=0.15, linewidth=0)


@styled
def gap(bands: Sequence[Band]) -> Any:
    """‖x − x̂‖ over server steps."""
    figure, axes = new_figure()
    _draw_bands(axes, bands)
    axes.set(xlabel="server steps", ylabel=r"$\|x-\hat{x}\|_2$", yscale="log")
    legend(figure, len(bands))
    return figure


@styled
def bytes_to_target(groups: Sequence[Group], count: str = "payload") -> Any:
    """Bars of bytes up and down to the target, with the spread over seeds; settings that never reached it are
    named without a bar."""
    figure, axes = new_figure(7.2, 0.5 + 0.46 * len(groups))
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
    targets = {g.target for g in groups}
    labels = [
        wrapped(
            g.label + ("" if len(targets) == 1 or "target" in g.label else f", {g.target}") + g.absent,
            48,
        )
        for g in groups
    ]
    aim = str(groups[0].target or "the end") if len(targets) == 1 else "the target"
    axes.set(yticks=at, yticklabels=labels, xlabel=f"{count} bytes to {aim} (MB)")
    axes.invert_yaxis()
    legend(figure, 2)
    return figure


@styled
def trade_off(points: pd.DataFrame) -> Any:
    """Client bits × server bits: uploads against bytes, with the front of what no other setting beats in both.

    points: label, uploads, bytes, front (bool).
    """
    figure, axes = new_figure()
    front = points[points["front"]].sort_values("bytes")
    axes.step(front["bytes"] / 1e6, front["uploads"], where="post", color="#999999", linewidth=0.8, zorder=1)
    named = len(points) <= _NAMED_POINTS and points["label"].str.len().max() <= 16
    for k, point in enumerate(points.itertuples()):
        at = (point.bytes / 1e6, point.uploads)
        filled = colour(k) if point.front else "none"
        axes.scatter(
            *at, color=colour(k), marker=_mark(k), s=26, facecolors=filled, zorder=2, label=point.label
        )
        if named:
            axes.annotate(wrapped(point.label), at, textcoords="offset points", xytext=(4, 3), fontsize=7)
    if not named:
        legend(figure, len(points))
    axes.set(xlabel="payload bytes to the target, up and down (MB)", ylabel="uploads to the target")
    if points["bytes"].max() > 20 * points["bytes"].min():
        axes.set_xscale("log")
    axes.margins(0.12)
    return figure


@styled
def staleness(counts: Sequence[tuple[str, np.ndarray]]) -> Any:
    """Share of updates by staleness: a histogram a setting, for several on top of each other hide one another."""
    figure, panes = panels(len(counts), 3.6, 0.75 if len(counts) > 1 else 2.0)
    for k, ((label, count), axes) in enumerate(zip(counts, panes, strict=True)):
        axes.bar(np.arange(len(count)), count / max(count.sum(), 1), 0.9, color=colour(k))
        axes.set_ylim(0, None)
        if len(counts) > 1:
            axes.text(0, 1.02, wrapped(label), transform=axes.transAxes, va="bottom", fontsize=7)
        axes.xaxis.get_major_locator().set_params(integer=True)
    panes[-1].set_xlabel("staleness (server steps)")
    figure.supylabel("share of updates", fontsize=8)
    return figure


@styled
def timeline(intervals: pd.DataFrame, window: Window) -> Any:
    """A lane per rank; sends as thin lines below, for they go on beside the rest."""
    ranks = sorted(intervals["rank"].unique())
    figure, axes = new_figure(7.2, 0.6 + 0.3 * len(ranks))
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
    legend(figure, len(ACTIVITIES), columns=len(ACTIVITIES))
    return figure


@styled
def links(traffic: Traffic) -> Any:
    """Wire bytes by link, senders down, receivers across; in numbers, too, where they have room."""
    wire_bytes, each = traffic.matrix(_MOST_LINKS)
    ranks = len(wire_bytes)
    size = 1.6 + min(3.4, 0.3 * ranks)
    figure, axes = new_figure(size + 0.8, size)
    sent = np.where(wire_bytes > 0, wire_bytes / 1e6, np.nan)
    wide = np.nanmax(sent) > 100 * np.nanmin(sent)
    image = axes.imshow(sent, cmap="cividis", norm="log" if wide else None, vmin=None if wide else 0)
    figure.colorbar(image, ax=axes, label="wire bytes (MB)")
    label = "rank" if each == 1 else f"ranks, {each} together"
    axes.set(xlabel=f"to {label}", ylabel=f"from {label}")
    axes.grid(False)
    for ticks in (axes.xaxis, axes.yaxis):
        ticks.get_major_locator().set_params(integer=True)
    for src, dst in np.argwhere(np.isfinite(sent)) if ranks <= _NUMBERED_RANKS else ():
        dark = image.norm(sent[src, dst]) < 0.5
        axes.text(dst, src, f"{sent[src, dst]:.3g}", ha="center", va="center", fontsize=6,
                  color="white" if dark else "black")  # fmt: skip
    return figure


@styled
def latency(frame: pd.DataFrame) -> Any:
    """Share of messages that arrived within a time of their post; grey: what the clocks can't tell from zero."""
    figure, axes = new_figure()
    bound_s = frame["bound_s"].max(skipna=False)
    floor_s = max(bound_s, 1e-9) if np.isfinite(bound_s) else 1e-9
    if np.isfinite(bound_s):
        axes.axvspan(1e-12, floor_s, color="#BBBBBB", alpha=0.5, linewidth=0, label="clock error bound")
    numbers = frame["kind"].value_counts()
    kinds = sorted(kind for kind, count in numbers.items() if count >= FEWEST_MESSAGES)
    for k, kind in enumerate(kinds):
        # What took less than the clocks can tell, or came before it was sent, is somewhere in the grey.
        seconds = np.maximum(np.sort(frame["seconds"][frame["kind"] == kind]), floor_s / 2)
        share = np.arange(1, len(seconds) + 1) / len(seconds)
        axes.plot(seconds, share, label=kind, drawstyle="steps-post", **line_style(k))
    axes.set(xscale="log", xlabel="from post to arrival (s)", ylabel="share of messages", ylim=(0, 1.02))
    axes.set_xlim(left=floor_s / 2)
    legend(figure, 2)
    return figure


@styled
def durations(by_kind: Mapping[str, np.ndarray], edges_s: np.ndarray, what: str) -> Any:
    """A histogram for each kind of message, as shares of its messages. by_kind: counts between the edges."""
    figure, axes = new_figure()
    for k, (kind, counts) in enumerate(sorted(by_kind.items())):
        axes.stairs(counts / counts.sum(), edges_s, label=kind, **line_style(k))
    some = np.flatnonzero(np.sum(list(by_kind.values()), axis=0))
    axes.set(xscale="log", yscale="log", xlabel=f"{what} (s)", ylabel="share of messages")
    axes.set_xlim(edges_s[some[0]] / 2, edges_s[some[-1] + 1] * 2)
    legend(figure, len(by_kind))
    return figure


@styled
def roofline(rows: pd.DataFrame) -> Any:
    """Throughput of each codec operation by vector length, below what the reference moves (dotted)."""
    figure, axes = new_figure()
    _against_reference(axes, rows, "d", "gb_per_s")
    axes.set(xscale="log", yscale="log", xlabel="elements", ylabel="GB/s")
    legend(figure, rows["label"].nunique())
    return figure


@styled
def bench_scaling(rows: pd.DataFrame) -> Any:
    """Operations a second by ranks or clients, with the reference of the same run (dotted)."""
    figure, axes = new_figure()
    _against_reference(axes, rows, "x", "rate")
    axes.set(yscale="log", xlabel=rows["name"].iloc[0], ylabel="operations per second")
    _number_axis(axes, rows["x"])
    legend(figure, rows["label"].nunique())
    return figure


@styled
def bench_sizes(rows: pd.DataFrame) -> Any:
    """Median time by bytes, with the reference of the same run (dotted)."""
    figure, axes = new_figure()
    _against_reference(axes, rows, "x", "seconds")
    axes.set(xscale="log", yscale="log", xlabel="payload bytes", ylabel="median time (s)")
    legend(figure, rows["label"].nunique())
    return figure


def _against_reference(axes: Any, rows: pd.DataFrame, x: str, y: str) -> None:
    for k, (label, own) in enumerate(rows.groupby("label", sort=False)):
        axes.plot(own[x], own[y], marker=_mark(k), markersize=3, label=label, **line_style(k))
        axes.plot(own[x], own[f"reference_{y}"], color=colour(k), linestyle=_BESIDE, linewidth=0.8)


@styled
def scaling(points: pd.DataFrame) -> Any:
    """Uploads a second by client ranks; dotted: in proportion to the smallest number. points: label, clients,
    rate."""
    figure, axes = new_figure()
    for k, (label, rows) in enumerate(points.groupby("label", sort=False)):
        mean = rows.groupby("clients")["rate"].mean()
        axes.plot(mean.index, mean, marker=_mark(k), markersize=3, label=label, **line_style(k))
        proportional = mean.iloc[0] * mean.index / mean.index[0]
        axes.plot(mean.index, proportional, color=colour(k), linestyle=_BESIDE, linewidth=0.8)
    axes.set(yscale="log", xlabel="client ranks", ylabel="uploads per second")
    _number_axis(axes, points["clients"])
    legend(figure, points["label"].nunique())
    return figure


def _number_axis(axes: Any, counts: pd.Series) -> None:
    """Ranks are whole numbers, also on a log axis: a tick for each that was measured."""
    axes.set_xscale("log")
    axes.set_xticks(sorted(counts.unique()), [f"{count:g}" for count in sorted(counts.unique())])
    axes.xaxis.minorticks_off()


def _mark(index: int) -> str:
    """Of the index-th setting; a new one with every round of colours."""
    return MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]
