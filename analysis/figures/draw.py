"""All figures that a collection of runs allows, each with its caption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from qafel_analysis.figures import convergence as curves
from qafel_analysis.figures import plots as figures
from qafel_analysis.figures import points
from qafel_analysis.figures.axes import AGAINST
from qafel_analysis.figures.collect import Collection, Detail, short_names
from qafel_analysis.figures.convergence import Band
from qafel_analysis.read import bench
from qafel_analysis.read.bench import Bench
from qafel_analysis.read.traffic import DURATIONS, EDGES_S


@dataclass(frozen=True)
class Drawing:
    """name: of the files. figure: a matplotlib figure."""

    name: str
    caption: str
    figure: Any


def drawings(found: Collection) -> Iterator[Drawing]:
    """In the order in which a paper would have them; what the runs don't have is left out."""
    yield from _convergence(found)
    groups = found.groups
    if any(g.mean("payload_bytes_up") is not None for g in groups):
        yield Drawing(
            "bytes_to_target",
            "Payload bytes to the target, up and down, means over the runs that reached it; whiskers: standard "
            "deviation over seeds. A broadcast counts once per server step.",
            figures.bytes_to_target(groups),
        )
    trade = points.trade_off(groups)
    if len(trade) > 1:
        yield Drawing(
            "trade_off",
            "Client bits/server bits: uploads to the target against payload bytes, up and down. Filled: no other "
            "setting needs fewer of both.",
            figures.trade_off(trade),
        )
    gaps = [b for b in bands(found, "server_steps", "gap", of="gaps") if b.high.max() > 0]
    if gaps:
        yield Drawing(
            "gap",
            "Distance of the hidden state from the server's model over server steps; median and range over seeds.",
            figures.gap(gaps),
        )
    counts = [(g.label, points.staleness_total([d.staleness for d in found.of(g)])) for g in groups]
    if counts := [(label, count) for label, count in counts if count.sum()]:
        yield Drawing(
            "staleness",
            "Share of updates by staleness, all runs of a setting together.",
            figures.staleness(counts),
        )
    for detail in found.details:
        yield from _messages(detail)
    scaling = points.scaling(found.runs)
    if len(scaling):
        yield Drawing(
            "scaling",
            "Uploads per second by client ranks, means over runs; dotted: in proportion to the smallest number.",
            figures.scaling(scaling),
        )
    names = short_names(result.path for result in found.benches)
    for result in found.benches:
        yield from _bench(result, names[result.path])


def bands(found: Collection, x: str, y: str, *, of: str = "curve") -> list[Band]:
    """One band per setting that has the quantity. of: the curves of evaluations, or "gaps"."""
    made = (curves.band(g, [getattr(d, of) for d in found.of(g)], x, y) for g in found.groups)
    return [b for b in made if b is not None]


def _convergence(found: Collection) -> Iterator[Drawing]:
    for y in ("accuracy", "loss", "gradient_norm_squared"):
        for x in ("uploads", "payload_bytes", "seconds"):
            if made := bands(found, x, y):
                title = f"{y.replace('_', ' ').capitalize()} against {AGAINST[x]}"
                yield Drawing(
                    f"{y}_against_{x}",
                    f"{title}: median over seeds and range; a run that reached its target keeps its last value, one "
                    "that was cut short does not.",
                    figures.convergence(made, x, y),
                )


_BESIDE = "dotted, in the same colour: the reference that ran in turns with it"


def _bench(result: Bench, name: str) -> Iterator[Drawing]:
    """name: of its file, and no other file's."""
    name += "" if result.name in result.path.stem else f"-{result.name}"
    about = f"Bench {result.name}"
    if len(rows := bench.roofline(result)):
        yield Drawing(
            f"roofline-{name}",
            f"{about}: throughput of the codec's operations by vector length; {_BESIDE}.",
            figures.roofline(rows),
        )
    if len(rows := bench.against(result, "ranks", "clients")):
        yield Drawing(
            f"scaling-{name}",
            f"{about}: operations per second by {rows['name'][0]}; {_BESIDE}.",
            figures.bench_scaling(rows),
        )
    if "d" not in result.rows and len(rows := bench.against(result, "bytes")):
        yield Drawing(
            f"sizes-{name}", f"{about}: median time by payload; {_BESIDE}.", figures.bench_sizes(rows)
        )


def _messages(detail: Detail) -> Iterator[Drawing]:
    name = detail.name
    if len(detail.intervals):
        yield Drawing(
            f"timeline-{name}",
            f"What each rank of {name} did, {detail.window.begin_s:.3f} s to {detail.window.end_s:.3f} s after its "
            "beginning, on rank 0's clock. Sends (thin) go on beside the rest.",
            figures.timeline(detail.intervals, detail.window),
        )
    if len(detail.traffic.links):
        yield Drawing(f"links-{name}", f"Wire bytes by link in {name}.", figures.links(detail.traffic))
    if len(detail.traffic.latency):
        yield Drawing(
            f"latency-{name}",
            f"From post to arrival, both on rank 0's clock, in {name}. {_bound(detail.traffic.latency)}",
            figures.latency(detail.traffic.latency),
        )
    for what, by_kind in detail.traffic.durations().items():
        if what in ("send", "latency"):
            yield Drawing(
                f"durations-{what}-{name}",
                f"How long messages of {name} took, by kind: {DURATIONS[what]}; 20 bins a decade.",
                figures.durations(by_kind, EDGES_S, DURATIONS[what]),
            )


def _bound(latency: pd.DataFrame) -> str:
    """What the clocks allow to be said."""
    bound_s = latency["bound_s"].max(skipna=False)
    if pd.isna(bound_s):
        return "The trace has no clock readings: how far the clocks are apart is not known."
    below = (latency["seconds"] <= latency["bound_s"]).mean()
    return (
        f"Grey: below the clocks' error bound of {1e6 * bound_s:.2g} µs, where {below:.1%} of the messages lie; of "
        "those no more can be said than that."
    )
