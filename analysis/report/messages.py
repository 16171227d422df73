"""The report's figures of the messages of some runs. Every string that comes from a file is escaped."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np
from qafel_analysis.figures.collect import Collection, Detail
from qafel_analysis.figures.palette import ACTIVITY_COLOURS
from qafel_analysis.figures.plots import FEWEST_MESSAGES
from qafel_analysis.read.timeline import ACTIVITIES
from qafel_analysis.read.traffic import DURATIONS, EDGES_S
from qafel_analysis.report.shapes import Chart, Variant, axes, line, short
from qafel_analysis.tables.grid import number

_MOST_LINKS = 256  # ranks a side of the link matrix; beyond, neighbours are added up


def details(found: Collection) -> Iterator[Chart]:
    """Those of the messages of some runs."""
    for detail in found.details:
        if len(detail.intervals):
            yield _timeline(detail)
        if len(detail.traffic.links):
            yield _links(detail)
        if len(detail.traffic.latency):
            yield _latency(detail)
        if detail.traffic.durations():
            yield _durations(detail)


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
    layout = axes(f"milliseconds after {begin_s:.6g} s", "rank")
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
    layout = axes(f"to {label}", f"from {label}")
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
                **line(str(kind), k),
                "x": short(seconds),
                "y": short(shares),
                "hovertemplate": f"%{{y:.1%}} within %{{x:.3s}}s<extra>{escape(str(kind))}</extra>",
            }
        )
    layout = axes("seconds from post to arrival", "share of messages", x_log=True)
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


def _durations(detail: Detail) -> Chart:
    """A histogram for each kind; a menu says of what."""
    variants = []
    for what, by_kind in detail.traffic.durations().items():
        traces = []
        for k, (kind, counts) in enumerate(sorted(by_kind.items())):
            edges_s, tops, words = _outline(counts)
            traces.append(
                {
                    **line(kind, k),
                    "x": short(edges_s),
                    "y": short(tops),
                    "text": words,
                    "hovertemplate": f"%{{text}}, %{{y:.2%}}<extra>{escape(kind)}</extra>",
                }
            )
        layout = axes(f"seconds: {DURATIONS[what]}", "share of messages", x_log=True, y_log=True)
        variants.append(Variant((what,), traces, layout))
    return Chart(
        f"durations-{detail.name}",
        f"Durations in {detail.name}",
        "Histograms by kind of message, 20 bins a decade; a gap is a time that no message took. The table above has "
        "medians and tails.",
        variants,
        (tuple(v.choice[0] for v in variants),),
    )


def _outline(counts: np.ndarray) -> tuple[list[float], list[float], list[str]]:
    """The tops of a histogram's bars as one line, with a gap for empty bins: x, share of all, and what it means."""
    x: list[float] = []
    y: list[float] = []
    words: list[str] = []
    for k in np.flatnonzero(counts):
        if x and x[-1] != EDGES_S[k]:
            x, y, words = [*x, EDGES_S[k]], [*y, np.nan], [*words, ""]
        said = f"{counts[k]:,} took {1e3 * EDGES_S[k]:.3g} to {1e3 * EDGES_S[k + 1]:.3g} ms"
        x += [EDGES_S[k], EDGES_S[k + 1]]
        y += [counts[k] / counts.sum()] * 2
        words += [said] * 2
    return x, y, words
