"""The report's figures that compare settings, as plotly's JSON: few points each, however long the runs were.

Every string that comes from a file is escaped here, for plotly takes a little HTML in names and labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from qafel_analysis.figures import points
from qafel_analysis.figures.axes import AGAINST
from qafel_analysis.figures.collect import Collection
from qafel_analysis.figures.convergence import Band
from qafel_analysis.figures.draw import bands
from qafel_analysis.figures.palette import colour
from qafel_analysis.report.shapes import Chart, Trace, Variant, axes, line, short
from qafel_analysis.tables.compare import Group

_MOST_POINTS = 24_000  # of all curves of a figure together
_MOST_BINS = 200  # of a histogram of staleness
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")


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
            [Variant((), _curves(gaps), axes("server steps", "‖x − x̂‖", y_log=True))],
        )
    yield from _staleness(found, groups)


# --- what compares settings -------------------------------------------------------------------------


def _convergence(found: Collection) -> Iterator[Chart]:
    variants = []
    for y in ("accuracy", "loss", "gradient_norm_squared"):
        for x in ("uploads", "payload_bytes", "seconds"):
            if made := bands(found, x, y):
                log = y != "accuracy" and all((b.median > 0).all() for b in made)
                layout = axes(AGAINST[x], y.replace("_", " "), y_log=log)
                variants.append(Variant((y.replace("_", " "), AGAINST[x]), _curves(made), layout))
    if variants:
        menus = tuple(tuple(dict.fromkeys(v.choice[k] for v in variants)) for k in (0, 1))
        yield Chart(
            "convergence",
            "Convergence",
            "Median over seeds, and the range; a run that reached its target keeps its last value, one that was cut "
            "short does not.",
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
                **line(band.label, k),
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
        layout = axes(f"{'paper’s formula' if count == 'paper' else count} bytes to the target", "")
        layout["yaxis"] |= {"autorange": "reversed", "type": "category", "title": {"text": "setting"}}
        variants.append(Variant((count,), traces, layout | {"barmode": "group", "bargap": 0.25}))
    listed = "; ".join(f"{k + 1}: {g.label}{g.absent}" for k, g in enumerate(groups[:40]))
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
    layout = axes("payload bytes to the target, up and down", "uploads to the target", x_log=log)
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
                **line(g.label, k),
                "x": short(np.arange(len(shares)) * each),
                "y": short(shares),
                "hovertemplate": f"τ = %{{x}}: %{{y:.2%}}<extra>{escape(g.label)}</extra>",
            }
        )
        traces[-1]["line"]["shape"] = "hvh"
    if traces:
        layout = axes("staleness τ (server steps)", "share of updates")
        layout["yaxis"]["rangemode"] = "tozero"
        longest = max(t["x"][-1] for t in traces)
        layout["xaxis"] |= {"tick0": 0, "dtick": max(1, round(longest / 8))}
        yield Chart(
            "staleness",
            "Staleness",
            "Share of updates by staleness, all runs of a setting together.",
            [Variant((), traces, layout)],
        )
