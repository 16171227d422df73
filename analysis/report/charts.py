"""The report's figures, as plotly's JSON: few points each, however long the runs were.

Every string that comes from a file is escaped here, for plotly takes a little HTML in names and labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from qafel_analysis.figures import points
from qafel_analysis.figures.axes import AGAINST
from qafel_analysis.figures.collect import Collection, Detail
from qafel_analysis.figures.convergence import Band
from qafel_analysis.figures.draw import bands
from qafel_analysis.figures.palette import ACTIVITY_COLOURS, colour, dash
from qafel_analysis.figures.plots import FEWEST_MESSAGES
from qafel_analysis.read.timeline import ACTIVITIES
from qafel_analysis.tables.compare import Group
from qafel_analysis.tables.grid import number

Trace = dict[str, Any]
_MOST_POINTS = 24_000  # of all curves of a figure together
_MOST_BINS = 200  # of a histogram of staleness
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")
_MOST_LINKS = 256  # ranks a side of the link matrix; beyond, neighbours are added up


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


def charts(found: Collection) -> Iterator[Chart]:
    """Those that compare settings; what the runs don't have is left out."""
    yield from _convergence(found)
    groups = found.groups
    if any(g.mean("payload_bytes_up") is not None for g in groups):
        yield _bytes(groups)
    yield from _trade_off(groups)
    gaps = [b for b in bands(found, "server_steps", "gap", of="gaps") if b.high.max() > 0]
    if gaps:
        yield Chart(
            "gap",
            "Distance of the hidden state from the model",
            "‖x − x̂‖ over server steps: median over seeds, and the range.",
            [Variant((), _curves(gaps), _axes("server steps", "‖x − x̂‖", y_log=True))],
        )
    yield from _staleness(found, groups)


def details(found: Collection) -> Iterator[Chart]:
    """Those of the messages of some runs."""
    for detail in found.details:
        if len(detail.intervals):
            yield _timeline(detail)
        if len(detail.traffic.links):
            yield _links(detail)
        if len(detail.traffic.latency):
            yield _latency(detail)


# --- what compares settings -------------------------------------------------------------------------


def _convergence(found: Collection) -> Iterator[Chart]:
    variants = []
    for y in ("accuracy", "loss", "gradient_norm_squared"):
        for x in ("uploads", "payload_bytes", "seconds"):
            if made := bands(found, x, y):
                log = y != "accuracy" and all((b.median > 0).all() for b in made)
                layout = _axes(AGAINST[x], y.replace("_", " "), y_log=log)
                variants.append(Variant((y.replace("_", " "), AGAINST[x]), _curves(made), layout))
    if variants:
        menus = tuple(tuple(dict.fromkeys(v.choice[k] for v in variants)) for k in (0, 1))
        yield Chart(
            "convergence",
            "Convergence",
            "Median over seeds, and the range; a run that reached its target keeps its last value.",
            variants,
            menus,
            height_px=440,
            wide=True,
        )


def _curves(made: Sequence[Band]) -> list[Trace]:
    most = max(24, min(200, _MOST_POINTS // len(made)))
    traces = []
    for k, band in enumerate(made):
        at = np.unique(np.linspace(0, len(band.x) - 1, min(most, len(band.x))).astype(int))
        x = band.x[at]
        if band.runs > 1:
            traces.append(_range(k, x, band.low[at], band.high[at]))
        traces.append(
            {
                **_line(band.label, k),
                "x": short(x),
                "y": short(band.median[at]),
                "hovertemplate": f"%{{x:.4s}}, %{{y:.4g}}<extra>{escape(band.label)}</extra>",
            }
        )
    return traces


def _range(k: int, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": short(np.concatenate([x, x[::-1]])),
        "y": short(np.concatenate([low, high[::-1]])),
        "fill": "toself",
        "fillcolor": colour(k),
        "opacity": 0.15,
        "line": {"width": 0, "color": colour(k)},
        "hoverinfo": "skip",
        "legendgroup": str(k),
        "showlegend": False,
    }


def _line(label: str, k: int) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": escape(label),
        "legendgroup": str(k),
        "line": {"color": colour(k), "dash": dash(k), "width": 2},
    }


def _bytes(groups: Sequence[Group]) -> Chart:
    """Bars of bytes up and down, counted as payload, on the wire, and by the paper's formula."""
    # Plotly joins bars of one name: a number in front keeps two settings apart, and short on a phone.
    names = [f"{k + 1}" for k in range(len(groups))]
    variants = []
    for count in ("payload", "wire", "paper"):
        traces = []
        for k, (way, label) in enumerate((("up", "up"), ("down", "down, by broadcast"))):
            key = f"{count}_bytes_{way}"
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": label,
                    "legendgroup": str(k),
                    "marker": {"color": colour(k), "pattern": {"shape": ("", "/")[k]}},
                    "y": names,
                    "x": short([g.mean(key) for g in groups]),
                    "error_x": {"array": short([g.spread(key) or 0 for g in groups]), "thickness": 1},
                    "customdata": [escape(g.label) for g in groups],
                    "hovertemplate": "%{customdata}<br>%{x:.4s}B<extra>" + label + "</extra>",
                }
            )
        layout = _axes(f"{'paper’s formula' if count == 'paper' else count} bytes to the target", "")
        layout["yaxis"] |= {"autorange": "reversed", "type": "category", "title": {"text": "setting"}}
        variants.append(Variant((count,), traces, layout | {"barmode": "group", "bargap": 0.25}))
    listed = "; ".join(
        f"{k + 1}: {g.label}" + ("" if g.reached else " (never reached)") for k, g in enumerate(groups[:40])
    )
    more = f"; and {len(groups) - 40} more, in the order of the tables" if len(groups) > 40 else ""
    return Chart(
        "bytes",
        "Bytes to the target",
        "Means over the runs that reached it; whiskers: standard deviation over seeds. A broadcast counts once "
        f"per server step. {listed}{more}.",
        variants,
        (("payload", "wire", "paper"),),
        height_px=min(1400, 170 + 44 * len(groups)),
    )


def _trade_off(groups: Sequence[Group]) -> Iterator[Chart]:
    trade = points.trade_off(groups)
    if len(trade) < 2:
        return
    front = trade[trade["front"]].sort_values("bytes")
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "front",
            "legendgroup": "front",
            "x": short(front["bytes"]),
            "y": short(front["uploads"]),
            "line": {"color": "#999999", "shape": "hv", "width": 1},
            "hoverinfo": "skip",
        }
    ]
    few = len(trade) <= 24  # so many labels can be read
    for k, point in enumerate(trade.itertuples()):
        symbol = _SYMBOLS[k % len(_SYMBOLS)] + ("" if point.front else "-open")
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text" if few else "markers",
                "name": escape(str(point.label)),
                "legendgroup": str(k),
                "x": short([point.bytes]),
                "y": short([point.uploads]),
                "text": [escape(str(point.label))],
                "textposition": "top center",
                "marker": {"color": colour(k), "symbol": symbol, "size": 11},
                "hovertemplate": "%{text}: %{x:.4s}B, %{y:.4s} uploads<extra></extra>",
            }
        )
    log = trade["bytes"].max() > 20 * trade["bytes"].min()
    layout = _axes("payload bytes to the target, up and down", "uploads to the target", x_log=log)
    yield Chart(
        "trade-off",
        "Trade-off of bits",
        "Client bits/server bits. Filled: no other setting needs both fewer uploads and fewer bytes.",
        [Variant((), traces, layout)],
    )


def _staleness(found: Collection, groups: Sequence[Group]) -> Iterator[Chart]:
    traces = []
    for k, g in enumerate(groups):
        counts = points.staleness_total([d.staleness for d in found.of(g)])
        if not counts.sum():
            continue
        each = -(-len(counts) // _MOST_BINS)
        shares = np.add.reduceat(counts, np.arange(0, len(counts), each)) / counts.sum()
        traces.append(
            {
                **_line(g.label, k),
                "x": short(np.arange(len(shares)) * each),
                "y": short(shares),
                "hovertemplate": f"τ = %{{x}}: %{{y:.2%}}<extra>{escape(g.label)}</extra>",
            }
        )
        traces[-1]["line"]["shape"] = "hvh"
    if traces:
        layout = _axes("staleness τ (server steps)", "share of updates")
        layout["yaxis"]["rangemode"] = "tozero"
        longest = max(t["x"][-1] for t in traces)
        layout["xaxis"] |= {"tick0": 0, "dtick": max(1, round(longest / 8))}
        yield Chart(
            "staleness",
            "Staleness",
            "Share of updates by staleness, all runs of a setting together.",
            [Variant((), traces, layout)],
        )


# --- the messages of some runs ----------------------------------------------------------------------


def _timeline(detail: Detail) -> Chart:
    begin_s, rows = detail.window.begin_s, detail.intervals
    ranks = sorted(rows["rank"].unique())
    part = "the middle of the run" if begin_s > 0 else "the whole run"
    traces = []
    for k, activity in enumerate(ACTIVITIES):
        own = rows[rows["activity"] == activity]
        sends = activity == "send"
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": activity,
                "legendgroup": str(k),
                "marker": {"color": ACTIVITY_COLOURS[activity], "line": {"width": 0}},
                "y": [int(r) for r in own["rank"]],
                "base": [round(float(b) * 1e3, 4) for b in own["begin_s"] - begin_s],
                "x": [round(float(s) * 1e3, 4) for s in own["end_s"] - own["begin_s"]],
                "width": 0.16 if sends else 0.6,
                "offset": 0.32 if sends else -0.3,
                "customdata": [
                    f"{kind} {'to' if sends or activity == 'encode' else 'from'} {peer}, {size:,} B"
                    if kind
                    else ""
                    for kind, peer, size in zip(own["kind"], own["peer"], own["wire_bytes"], strict=True)
                ],
                "hovertemplate": f"rank %{{y}}: {activity} %{{x:.4g}} ms<br>%{{customdata}}<extra></extra>",
            }
        )
    layout = _axes(f"milliseconds after {begin_s:.6g} s", "rank")
    layout["xaxis"]["range"] = [0, (detail.window.end_s - begin_s) * 1e3]
    layout["yaxis"] |= {"autorange": "reversed", "dtick": max(1, len(ranks) // 24), "showgrid": False}
    return Chart(
        f"timeline-{detail.name}",
        f"Timeline of {detail.name}",
        f"What each rank did between {begin_s:.6g} s and {detail.window.end_s:.6g} s, on rank 0's clock: {part}. "
        "Sends, thin, go on beside the rest. Drag over a stretch to enlarge it.",
        [Variant((), traces, layout | {"barmode": "overlay", "hovermode": "closest"})],
        height_px=min(900, 170 + 34 * len(ranks)),
        wide=True,
    )


def _links(detail: Detail) -> Chart:
    sent, each = detail.traffic.matrix(_MOST_LINKS)
    at = each * np.arange(len(sent))
    label = "rank" if each == 1 else f"{each} ranks from"
    trace = {
        "type": "heatmap",
        "x": at.tolist(),
        "y": at.tolist(),
        "z": [short(np.where(row > 0, row, np.nan)) for row in sent],
        "colorscale": "Cividis",
        "colorbar": {"title": {"text": "wire bytes"}, "thickness": 12, "tickformat": ".2s"},
        "hovertemplate": f"from {label} %{{y}} to {label} %{{x}}: %{{z:.4s}}B<extra></extra>",
    }
    layout = _axes(f"to {label}", f"from {label}")
    for axis in (layout["xaxis"], layout["yaxis"]):
        axis |= {"tick0": 0, "dtick": each * max(1, len(at) // 8)}
    layout["yaxis"]["autorange"] = "reversed"
    return Chart(
        f"links-{detail.name}",
        f"Links of {detail.name}",
        "Wire bytes by link, over the whole run.",
        [Variant((), [trace], layout)],
    )


def _latency(detail: Detail) -> Chart:
    frame = detail.traffic.latency
    bound_s = frame["bound_s"].max(skipna=False)
    known = bool(np.isfinite(bound_s))
    floor_s = max(float(bound_s), 1e-9) if known else 1e-9
    shares = np.linspace(0, 1, 201)
    traces = []
    kinds = [(kind, rows) for kind, rows in frame.groupby("kind") if len(rows) >= FEWEST_MESSAGES]
    for k, (kind, rows) in enumerate(kinds):
        seconds = np.quantile(np.maximum(rows["seconds"], floor_s / 2), shares)
        traces.append(
            {
                **_line(str(kind), k),
                "x": short(seconds),
                "y": short(shares),
                "hovertemplate": f"%{{y:.1%}} within %{{x:.3s}}s<extra>{escape(str(kind))}</extra>",
            }
        )
    layout = _axes("seconds from post to arrival", "share of messages", x_log=True)
    if known:
        shade = {
            "type": "rect",
            "xref": "x",
            "yref": "paper",
            "x0": floor_s / 4,
            "x1": floor_s,
            "y0": 0,
            "y1": 1,
        }
        layout["shapes"] = [shade | {"fillcolor": "#888888", "opacity": 0.25, "line": {"width": 0}}]
    limits = (
        f"Grey: below the clocks' error bound of {number(1e6 * floor_s)} µs no more can be said."
        if known
        else "The trace has no clock readings: how far the clocks are apart is not known."
    )
    return Chart(
        f"latency-{detail.name}",
        f"Latency in {detail.name}",
        f"Share of messages that arrived within a time of their post, of a sample of {len(frame):,}. {limits}",
        [Variant((), traces, layout)],
    )


# --- shapes -----------------------------------------------------------------------------------------


def _axes(x: str, y: str, *, x_log: bool = False, y_log: bool = False) -> dict[str, Any]:
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
