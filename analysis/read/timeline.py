"""What every rank did when: training, encoding, sending, decoding, and the waiting between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from qafel_mpi.trace.reader import Trace
from qafel_mpi.trace_schema import KIND_NAMES, MESSAGE_TIMES, taken

ACTIVITIES = ("train", "encode", "decode", "send", "wait")
EXCLUSIVE = (
    "train",
    "encode",
    "decode",
    "wait",
)  # a rank does one of them at a time; sends go on beside them
COLUMNS = ["rank", "activity", "begin_s", "end_s", "kind", "peer", "wire_bytes"]
_SENDER, _RECEIVER = 0, 1
_KIND = {name: kind for kind, name in KIND_NAMES.items()}


@dataclass(frozen=True)
class Window:
    """Seconds since the run began, on rank 0's clock."""

    begin_s: float
    end_s: float


def whole_run(trace: Trace) -> Window:
    """From the beginning to the last message; falls back on the last server step."""
    end_s = float(trace.attributes.get("seconds", 0.0))
    if not end_s > 0:
        times = trace.table("steps", ["time_s"])["time_s"]
        end_s = float(np.nanmax(times, initial=0.0))
    return Window(0.0, end_s)


def middle(trace: Trace, intervals: int) -> Window:
    """A window around the middle of the run that holds about so many intervals; the run where it has no more."""
    whole = whole_run(trace)
    share = intervals / max(1.0, 1.5 * trace.rows("messages"))
    half_s = min(1.0, share) * whole.end_s / 2
    return Window(whole.end_s / 2 - half_s, whole.end_s / 2 + half_s)


def intervals(trace: Trace, window: Window | None = None) -> pd.DataFrame:
    """What lies, wholly or in part, in the window: COLUMNS, sorted by rank and time.

    Activities: train (of a client, or of a worker's batch), encode, decode (with the check before it and the
    addition), send (from the post to its completion; a rank goes on with other things meanwhile), wait (nothing
    of that is under way but sends; on rank 0 also evaluating, which the trace does not record).
    """
    window = window or whole_run(trace)
    rows, spans, trainings = [], [], Trainings(trace)
    for block in trace.blocks("messages"):
        rows.append(block[_touches(block, window)])
        spans.append(trainings.of(trainings.about(block, window)))
    if not rows:
        return pd.DataFrame(columns=COLUMNS)
    spans.append(trainings.under_way(window.end_s))
    found = pd.concat([of_messages(np.concatenate(rows)), *spans], ignore_index=True)
    found = found[(found["end_s"] >= window.begin_s) & (found["begin_s"] <= window.end_s)]
    found = pd.concat([found, _waiting(found, window)], ignore_index=True)
    return found.sort_values(["rank", "begin_s"], ignore_index=True)


def _touches(rows: np.ndarray, window: Window) -> np.ndarray:
    times = np.stack([rows[name] for name in MESSAGE_TIMES])
    with np.errstate(invalid="ignore"):
        first, last = np.fmin.reduce(times), np.fmax.reduce(times)
    return (last >= window.begin_s) & (first <= window.end_s)


def of_messages(rows: np.ndarray) -> pd.DataFrame:
    """Encoding, sending and decoding of these rows of /messages."""
    sent, received = rows[rows["end"] == _SENDER], rows[rows["end"] == _RECEIVER]
    encoded = _frame(sent, "encode", "src", "dst", "t_encode_begin", "t_encode_end")
    # One encoding serves all destinations of a broadcast.
    encoded = encoded.drop_duplicates(["rank", "begin_s"])
    parts = [
        encoded,
        _frame(sent, "send", "src", "dst", "t_post", "t_complete"),
        _frame(received, "decode", "dst", "src", "t_decode_begin", "t_decode_end"),
    ]
    return pd.concat(parts, ignore_index=True)


def _frame(rows: np.ndarray, activity: str, rank: str, peer: str, begin: str, end: str) -> pd.DataFrame:
    rows = rows[np.isfinite(rows[begin]) & np.isfinite(rows[end])]
    return pd.DataFrame(
        {
            "rank": rows[rank],
            "activity": activity,
            "begin_s": rows[begin],
            "end_s": rows[end],
            "kind": pd.Series(rows["kind"]).map(KIND_NAMES).fillna("unknown"),
            "peer": rows[peer],
            "wire_bytes": rows["wire_bytes"],
        }
    )


class Trainings:
    """The trainings behind the messages of a run; of(rows) may be called block after block.

    wall: a training ends where the encoding of its update begins, and /updates says how long it took.
    virtual: a worker's batch begins when it has read its order and ends where its first encoding begins.
    """

    def __init__(self, trace: Trace):
        self._virtual = trace.attributes.get("driver") == "virtual"
        self._pending: dict[int, np.ndarray] = {}
        names = ["client", "participation", "train_seconds"]
        self._seconds = pd.DataFrame(columns=names)
        if not self._virtual:
            rows = taken(trace.table("updates"))
            self._seconds = pd.DataFrame({name: rows[name] for name in names})

    def about(self, rows: np.ndarray, window: Window) -> np.ndarray:
        """Those rows of /messages that `of` needs for what is trained in the window."""
        if self._virtual:  # a batch that goes on now may have begun any time ago
            return rows
        longest_s = self._seconds["train_seconds"].max()
        ends = rows["t_encode_begin"]
        return rows[(ends >= window.begin_s) & (ends <= window.end_s + longest_s)]

    def under_way(self, end_s: float) -> pd.DataFrame:
        """The workers' batches that were begun in the rows seen and not ended."""
        begun = [(rank, begin) for rank, begins in self._pending.items() for begin in begins if begin < end_s]
        return _trained(pd.DataFrame(begun, columns=["rank", "begin_s"]).assign(end_s=end_s))

    def of(self, rows: np.ndarray) -> pd.DataFrame:
        updates = rows[(rows["end"] == _SENDER) & (rows["kind"] == _KIND["update"])]
        found = self._batches(rows, updates) if self._virtual else self._singles(updates)
        return _trained(found)

    def _singles(self, updates: np.ndarray) -> pd.DataFrame:
        ends = pd.DataFrame(
            {
                "rank": updates["src"],
                "client": updates["client"],
                "participation": updates["sequence"],
                "end_s": updates["t_encode_begin"],
            }
        )
        both = ends.merge(self._seconds, on=["client", "participation"])
        return both.assign(begin_s=both["end_s"] - both["train_seconds"])

    def _batches(self, rows: np.ndarray, updates: np.ndarray) -> pd.DataFrame:
        orders = rows[(rows["end"] == _RECEIVER) & (rows["kind"] == _KIND["train"])]
        found = []
        for rank in np.unique(np.concatenate([orders["dst"], list(self._pending)])).astype(int):
            waiting = self._pending.pop(rank, np.zeros(0))
            begins = np.concatenate([waiting, np.sort(orders["t_decode_end"][orders["dst"] == rank])])
            ends = np.sort(updates["t_encode_begin"][updates["src"] == rank])
            at = np.searchsorted(ends, begins)
            done = at < len(ends)
            self._pending[rank] = begins[~done]
            found.append(
                pd.DataFrame({"rank": rank, "begin_s": begins[done], "end_s": ends[at[done]]}),
            )
        return (
            pd.concat(found, ignore_index=True)
            if found
            else pd.DataFrame(columns=["rank", "begin_s", "end_s"])
        )


def _trained(spans: pd.DataFrame) -> pd.DataFrame:
    return spans.assign(activity="train", kind="", peer=-1, wire_bytes=0)[COLUMNS]


def _waiting(found: pd.DataFrame, window: Window) -> pd.DataFrame:
    """The gaps of each rank between training, encoding and decoding, within the window."""
    gaps = []
    busy = found[found["activity"] != "send"].sort_values("begin_s")
    for rank, rows in busy.groupby("rank"):
        begins = np.append(rows["begin_s"].to_numpy(), window.end_s)
        covered = np.maximum.accumulate(np.append(window.begin_s, rows["end_s"].to_numpy()))
        idle = begins > covered
        gaps.append(pd.DataFrame({"rank": rank, "begin_s": covered[idle], "end_s": begins[idle]}))
    if not gaps:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(gaps, ignore_index=True).assign(activity="wait", kind="", peer=-1, wire_bytes=0)[COLUMNS]


def shares(found: pd.DataFrame, window: Window) -> pd.DataFrame:
    """By rank: the share of the window spent training, encoding, decoding and waiting; a row sums to one.

    Decoding that interrupts a training is not counted as training.
    """
    length_s = window.end_s - window.begin_s
    inside = found[found["activity"] != "send"].copy()
    begin = inside["begin_s"].clip(lower=window.begin_s)
    end = inside["end_s"].clip(upper=window.end_s)
    inside["share"] = (end - begin).clip(lower=0) / length_s
    table = inside.pivot_table(
        index="rank", columns="activity", values="share", aggfunc="sum", fill_value=0.0
    )
    table = table.reindex(columns=list(EXCLUSIVE), fill_value=0.0)
    nested = (table.sum(axis=1) - 1).clip(lower=0)  # what was counted twice
    table["train"] = (table["train"] - nested).clip(lower=0)
    return table


def as_json(trace: Trace, window: Window) -> dict[str, Any]:
    """{begin_s, end_s, spans, shares}: each span as [rank, activity, begin_s, end_s], each rank's shares by activity.

    Times are rounded to 0.1 µs.
    """
    found = intervals(trace, window)
    rows = found[["rank", "activity", "begin_s", "end_s"]].itertuples(index=False)
    return {
        "begin_s": window.begin_s,
        "end_s": window.end_s,
        "spans": [[int(rank), what, round(begin, 7), round(end, 7)] for rank, what, begin, end in rows],
        "shares": [
            {"rank": int(rank)} | {name: round(float(share), 6) for name, share in own.items()}
            for rank, own in shares(found, window).to_dict("index").items()
        ],
    }


def from_json(content: Mapping[str, Any]) -> tuple[pd.DataFrame, Window]:
    """(intervals, their window) as as_json wrote them."""
    frame = pd.DataFrame(content["spans"], columns=["rank", "activity", "begin_s", "end_s"])
    return frame, Window(content["begin_s"], content["end_s"])
