"""Colours and marks that colour-blind readers and black-and-white print keep apart."""

from __future__ import annotations

# Okabe and Ito, "Color Universal Design", 2008; yellow last, for it is weak on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

ACTIVITY_COLOURS = {
    "train": "#0072B2",
    "encode": "#E69F00",
    "decode": "#009E73",
    "send": "#CC79A7",
    "wait": "#DDDDDD",
}


def colour(index: int) -> str:
    """Of the index-th setting; beyond eight the dashes tell apart."""
    return COLOURS[index % len(COLOURS)]


def dash(index: int) -> str:
    """Plotly's name of a dash; a new one with every round of colours, and within a round alternating."""
    return DASHES[(index % len(COLOURS) + index // len(COLOURS)) % len(DASHES)]
