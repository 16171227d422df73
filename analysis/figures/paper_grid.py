"""The paper's grid of client and server bits, here and as published: uploads and bytes against FedBuff's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from qafel_analysis.figures.palette import MARKERS, colour
from qafel_analysis.figures.style import styled
from qafel_analysis.read.extras import extra
from qafel_analysis.tables.paper import published

BITS = [(client, server) for client in (8, 4, 2) for server in (8, 4, 2)]
_CELL = re.compile(r"qafel, \S+ (\d) bits up, \S+ (\d) bits down, K")
_TITLES = {"uploads": "uploads / FedBuff's", "payload_bytes_up": "FedBuff's bytes up / these"}
Cell = tuple[int, int]
Ratio = tuple[float, float, float]  # middle, and the ends of its interval


@styled
def paper_grid(content: Any) -> Any:
    """Two panels over the nine cells: ours with their 95% intervals, and the paper's means of CelebA.

    content: of `compare` on a suite of the grid.
    """
    figure = extra("matplotlib.figure").Figure(figsize=(7.2, 2.9), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, 2), _TITLES.items(), strict=True):
        own, theirs = ours(content)[key], papers()[key]
        places = range(len(BITS))
        middles = [own[cell][0] for cell in BITS]
        ends = [[abs(own[cell][0] - own[cell][end]) for cell in BITS] for end in (1, 2)]
        axes.axhline(1, color="#888888", linewidth=0.8, linestyle="--")
        axes.errorbar(
            places, middles, yerr=ends, fmt=MARKERS[0], markersize=5, color=colour(0), capsize=2, label="here"
        )
        axes.plot(
            places,
            [theirs[cell] for cell in BITS],
            MARKERS[1],
            markersize=5,
            color=colour(1),
            label="the paper",
        )
        axes.set(title=title, ylim=(0, None))
        axes.set_xticks(places, [f"{client}/{server}" for client, server in BITS])
    figure.supxlabel("bits of the client's / of the server's messages")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


def ours(content: Sequence[Mapping[str, Any]]) -> dict[str, dict[Cell, Ratio]]:
    """By panel and cell. One of a single run, or the same in all runs, is its own interval."""
    found: dict[str, dict[Cell, Ratio]] = {key: {} for key in _TITLES}
    for one in content:
        if cell := _CELL.match(one["setting"]):
            bits = int(cell[1]), int(cell[2])
            for key in _TITLES:
                over = one["fedbuff_over_this"][key]
                ratios = [
                    over["ratio"] if over[end] is None else over[end] for end in ("ratio", "low", "high")
                ]
                middle, *ends = [1 / ratio for ratio in ratios] if key == "uploads" else ratios
                found[key][bits] = middle, min(ends), max(ends)
    return found


def papers() -> dict[str, dict[Cell, float]]:
    """Of CelebA: means over its repetitions."""
    rows = [row for row in published()[1] if row.dataset == "celeba"]
    (fedbuff,) = (row for row in rows if row.algorithm == "fedbuff")
    uploads = {
        (row.client_bits, row.server_bits): fmean(row.uploads) / fmean(fedbuff.uploads)
        for row in rows
        if row.algorithm == "qafel"
    }
    sizes = {(row.client_bits, row.server_bits): row.bytes_per_upload for row in rows}
    saved = {cell: fedbuff.bytes_per_upload / sizes[cell] / ratio for cell, ratio in uploads.items()}
    return {"uploads": uploads, "payload_bytes_up": saved}
