"""Points of the figures that compare settings: the trade-off of bits, and scaling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from qafel_analysis.tables.compare import Group, Run


def trade_off(groups: Sequence[Group]) -> pd.DataFrame:
    """label, uploads, bytes (payload up and down to the target), and front: no other setting needs fewer of both.

    Settings that never reached their target are left out.
    """
    rows = []
    for g in groups:
        up, down, uploads = (g.mean(k) for k in ("payload_bytes_up", "payload_bytes_down", "uploads"))
        if g.target is not None and up is not None and down is not None and uploads is not None:
            rows.append({"label": _bits(g.runs[0]), "uploads": uploads, "bytes": up + down})
            rows[-1]["full"] = g.label
    points = pd.DataFrame(rows, columns=["label", "uploads", "bytes", "full"])
    if points["label"].duplicated().any():  # bits alone don't tell them apart
        points["label"] = points["full"]
    points = points.drop(columns="full")
    others = points[["uploads", "bytes"]].to_numpy()
    points["front"] = [not ((others <= own).all(axis=1) & (others < own).any(axis=1)).any() for own in others]
    return points


def _bits(run: Run) -> str:
    """Client bits/server bits; the algorithm's name where it sends floats."""
    if run["uplink_codec"] == run["downlink_codec"] == "identity":
        return str(run["algorithm"])
    prefix = "" if run["algorithm"] == "qafel" else f"{run['algorithm']} "
    codecs = {run["uplink_codec"], run["downlink_codec"]} - {"qsgd", "identity"}
    return f"{prefix}{run['uplink_bits']}/{run['downlink_bits']}" + "".join(f" {c}" for c in sorted(codecs))


def scaling(runs: Sequence[Run]) -> pd.DataFrame:
    """label, clients (ranks), rate (uploads a second), one row per wall run; empty unless one setting, but for
    its ranks, was run on several numbers of them."""
    rows = []
    for run in runs:
        if run["driver"] != "wall" or not run["seconds"] or not run["uploads"]:
            continue
        rest = {k: v for k, v in run["settings"].items() if k != "ranks"}
        rows.append(
            {
                "setting": repr(sorted(rest.items(), key=lambda item: item[0])),
                "label": " ".join(dict.fromkeys([str(run["algorithm"]), *_bits(run).split()])),
                "clients": run["ranks"] - 1,
                "rate": run["uploads"] / run["seconds"],
            }
        )
    points = pd.DataFrame(rows, columns=["setting", "label", "clients", "rate"])
    several = points.groupby("setting")["clients"].transform("nunique") > 1
    return points[several].drop(columns="setting").sort_values("clients", ignore_index=True)


def staleness_total(counts: Sequence[np.ndarray]) -> np.ndarray:
    """The counts of several runs added up; index is τ."""
    longest = max(map(len, counts), default=1)
    return np.sum([np.pad(c, (0, longest - len(c))) for c in counts], axis=0)
