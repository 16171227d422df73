"""What the messages of a run add up to: bytes by link, durations, latencies. One pass, in blocks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from qafel_mpi.trace.reader import Clocks, Trace, TraceError
from qafel_mpi.trace_schema import KIND_NAMES

SENDER, RECEIVER = 0, 1
MOST_RANKS = 1_000_000  # more are a damaged file
SAMPLED_ROWS = 200_000  # messages whose two ends are brought together, at most about

# Histograms of seconds: 20 bins a decade.
EDGES_S = np.logspace(-7, 4, 11 * 20 + 1)

DURATIONS = {
    "send": "from post to completion at the sender",
    "latency": "from post to arrival, in a sample",
    "encode": "encoding",
    "decode": "decoding",
}

_LINK = ["src", "dst", "messages", "wire_bytes"]
_KEY = ["kind", "src", "dst", "client", "version", "sequence"]


@dataclass
class Traffic:
    """Counts over all messages of a run, and a sample of whole messages.

    links: a row for each pair of ranks that has messages: src, dst, messages, wire_bytes, from the senders' rows.
    kinds: name -> (sent, received, payload bytes, wire bytes). sends_s, encodes_s, decodes_s: kind -> histogram over
    EDGES_S. latency: a frame with kind, src, dst, post_s, seconds (receiver's completion minus sender's post, both on
    rank 0's clock) and bound_s, the error bound of the two ranks' clocks at these times; nan where it is unknown.
    """

    ranks: int
    links: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=_LINK, dtype=np.int64))
    kinds: dict[str, list[int]] = field(default_factory=dict)
    sends_s: dict[str, np.ndarray] = field(default_factory=dict)
    encodes_s: dict[str, np.ndarray] = field(default_factory=dict)
    decodes_s: dict[str, np.ndarray] = field(default_factory=dict)
    busy_s: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))  # by rank: encoding, decoding
    dropped: int = 0
    latency: pd.DataFrame = field(default_factory=pd.DataFrame)

    def durations(self) -> dict[str, dict[str, np.ndarray]]:
        """What took time, of DURATIONS -> kind -> histogram over EDGES_S. What was not recorded is left out."""
        latency: dict[str, np.ndarray] = {}
        for kind, own in self.latency.groupby("kind") if len(self.latency) else ():
            _histogram(latency, str(kind), own["seconds"].to_numpy())
        found = {"send": self.sends_s, "latency": latency, "encode": self.encodes_s, "decode": self.decodes_s}
        return {what: by_kind for what, by_kind in found.items() if by_kind}

    def matrix(self, most: int) -> tuple[np.ndarray, int]:
        """(wire bytes, [src, dst], of so many ranks together that there are at most `most` of them; how many)."""
        each = -(-self.ranks // most)
        sent = np.zeros((-(-self.ranks // each),) * 2)
        np.add.at(sent, (self.links["src"] // each, self.links["dst"] // each), self.links["wire_bytes"])
        return sent, each


def traffic(trace: Trace) -> Traffic:
    """One pass over /messages; memory grows with the pairs of ranks that talk to each other, not with messages."""
    total = trace.rows("messages")
    ranks = trace.all_ranks if "ranks" in trace.attributes else _largest_rank(trace) + 1
    if not 0 < ranks <= MOST_RANKS:
        raise TraceError(
            f"{trace.path}: {ranks} ranks; their messages can be added up for 1 to {MOST_RANKS:,}"
        )
    found = Traffic(ranks)
    found.busy_s = np.zeros((ranks, 2))
    one_in = max(1, total // (2 * SAMPLED_ROWS))
    samples: dict[int, list[np.ndarray]] = {SENDER: [], RECEIVER: []}
    for block in trace.blocks("messages"):
        whole = block[block["dropped"] == 0]
        for name in ("src", "dst"):
            if len(whole) and not 0 <= whole[name].min() <= whole[name].max() < ranks:
                raise TraceError(
                    f"{trace.path}: damaged, /messages has a {name} that is none of its {ranks} ranks"
                )
        found.dropped += len(block) - len(whole)
        for end in (SENDER, RECEIVER):
            _add(found, whole[whole["end"] == end], end)
        picked = whole[_hash(whole) % np.uint64(one_in) == 0]
        for end, rows in samples.items():
            rows.append(picked[picked["end"] == end])
    found.latency = _latency(samples, trace.clocks)
    return found


def _largest_rank(trace: Trace) -> int:
    blocks = trace.blocks("messages", ["src", "dst"])
    return max((int(max(b["src"].max(), b["dst"].max())) for b in blocks), default=0)


def _add(found: Traffic, rows: np.ndarray, end: int) -> None:
    if not len(rows):
        return
    ranks = found.ranks
    if end == SENDER:
        new = pd.DataFrame(
            {"src": rows["src"], "dst": rows["dst"], "messages": 1, "wire_bytes": rows["wire_bytes"]}
        )
        found.links = _summed(pd.concat([found.links, _summed(new)]))
        found.busy_s[:, 0] += _encoding(rows, ranks)
    else:
        spent = np.nan_to_num(rows["t_decode_end"] - rows["t_decode_begin"])
        found.busy_s[:, 1] += np.bincount(rows["dst"], weights=spent, minlength=ranks)
    for kind in np.unique(rows["kind"]):
        name = KIND_NAMES.get(int(kind), f"kind {kind}")
        these = rows[rows["kind"] == kind]
        counts = found.kinds.setdefault(name, [0, 0, 0, 0])
        counts[end] += len(these)
        if end == SENDER:
            counts[2] += int(these["payload_bytes"].sum())
            counts[3] += int(these["wire_bytes"].sum())
            _histogram(found.sends_s, name, these["t_complete"] - these["t_post"])
            _histogram(found.encodes_s, name, these["t_encode_end"] - these["t_encode_begin"])
        else:
            _histogram(found.decodes_s, name, these["t_decode_end"] - these["t_decode_begin"])


def _summed(links: pd.DataFrame) -> pd.DataFrame:
    return links.groupby(["src", "dst"], as_index=False).sum().astype(np.int64)


def _encoding(rows: np.ndarray, ranks: int) -> np.ndarray:
    """Seconds spent encoding, by rank. A broadcast is encoded once, however many rows it has."""
    frames = pd.DataFrame({"src": rows["src"], "begin": rows["t_encode_begin"], "end": rows["t_encode_end"]})
    frames = frames.drop_duplicates(["src", "begin"])
    spent = np.nan_to_num((frames["end"] - frames["begin"]).to_numpy())
    return np.bincount(frames["src"].to_numpy(), weights=spent, minlength=ranks)


def _histogram(into: dict[str, np.ndarray], name: str, seconds: np.ndarray) -> None:
    seconds = seconds[np.isfinite(seconds)]
    if len(seconds):
        counts, _ = np.histogram(np.clip(seconds, EDGES_S[0], EDGES_S[-1]), EDGES_S)
        into[name] = into.get(name, 0) + counts


def _hash(rows: np.ndarray) -> np.ndarray:
    """A number that both ends of a message agree on."""
    mixed = rows["sequence"].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for name in ("version", "client", "kind", "src", "dst"):
        mixed = (mixed ^ rows[name].astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def errors_s(clocks: Clocks, ranks: pd.Series, seconds: pd.Series) -> pd.Series:
    """How wrong each time may be that this rank's clock gave."""
    return seconds.groupby(ranks).transform(lambda own: clocks.of(own.name).error_s(own.to_numpy()))


def _latency(samples: dict[int, list[np.ndarray]], clocks: Clocks) -> pd.DataFrame:
    """The two ends of each sampled message, side by side."""
    ends = {
        end: pd.DataFrame(np.concatenate(rows)[[*_KEY, "t_post", "t_complete"]] if rows else [])
        for end, rows in samples.items()
    }
    if not len(ends[SENDER]) or not len(ends[RECEIVER]):
        return pd.DataFrame(columns=["kind", "src", "dst", "post_s", "seconds", "bound_s"])
    for end, frame in ends.items():
        # Some kinds carry no numbers. MPI keeps the order on a link: the n-th sent is the n-th received.
        ends[end] = frame.assign(nth=frame.groupby(_KEY).cumcount())
    both = ends[SENDER].merge(ends[RECEIVER], on=[*_KEY, "nth"], suffixes=("_sent", "_received"))
    return pd.DataFrame(
        {
            "kind": both["kind"].map(KIND_NAMES).fillna("unknown"),
            "src": both["src"],
            "dst": both["dst"],
            "post_s": both["t_post_sent"],
            "seconds": both["t_complete_received"] - both["t_post_sent"],
            "bound_s": errors_s(clocks, both["src"], both["t_post_sent"])
            + errors_s(clocks, both["dst"], both["t_complete_received"]),
        }
    )


def latency_quantile(seconds: pd.Series, bound_s: pd.Series, share: float = 0.5) -> tuple[float, float]:
    """(that quantile, how wrong it may be): with every message as fast, or as slow, as its bound allows."""
    if bound_s.isna().any():
        return float(seconds.quantile(share)), float("nan")
    low, middle, high = (float((seconds + shift * bound_s).quantile(share)) for shift in (-1, 0, 1))
    return middle, max(high - middle, middle - low)


def quantile_s(histogram: np.ndarray, share: float) -> float:
    """The duration below which this share lies, to a bin's width (12%); nan where nothing was counted."""
    total = histogram.sum()
    if not total:
        return float("nan")
    bin_ = int(np.searchsorted(np.cumsum(histogram), share * total))
    return float(np.sqrt(EDGES_S[bin_] * EDGES_S[bin_ + 1]))
