"""Rank 0's costs carried to thousands of ranks, on paper.

N clients whose update takes T seconds send N/T updates a second. Rank 0 spends r seconds on each, and on each server
step, one in K updates, e seconds to encode and p seconds a link to post the broadcast:

    load = N/T · (r + (e + N·p) / K)

Its link carries N/T updates in and N/T · N/K broadcasts out. Whatever comes to 1 first saturates; past it the rate
stays where it is and clients wait: efficiency is 1 over the largest load. r, e and p are medians from a trace, in the
state of the machine that made it. With a LogGP model of the network (loggp.py), p = max(o, g), the link is the
model's, and it says when the last client has a broadcast.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from qafel_analysis.tables.grid import NOTHING, Grid
from qafel_analysis.theory.loggp import LogGP, broadcast_s

from qafel_mpi.trace.reader import Trace, TraceError, open_trace
from qafel_mpi.trace_schema import HEADER_BYTES, KIND_NUMBERS, taken

PAPER_RANKS = (32, 100, 320, 1000, 3200, 10000)
SAME_POLL_S = 100e-6  # messages seen to be complete within so long came out of one poll
LINK_GBIT = 100.0


@dataclass(frozen=True)
class Costs:
    """Medians of one wall run, seconds and bytes."""

    run: str  # which, and of how many ranks
    ranks: int
    train_s: float
    receive_s: float  # r: one update on rank 0, from frame to books
    encode_s: float  # e: a server step and its payload
    post_s: float  # p: one link of a broadcast
    up_bytes: int  # on the wire
    down_bytes: int
    buffer_size: int
    buffer_grows: bool  # with the clients, K = N


@dataclass(frozen=True)
class Load:
    """What N clients ask of rank 0, as shares of what it can do: 1 saturates."""

    ranks: int
    receiving: float
    encoding: float
    posting: float
    posting_by_tree: float  # rank 0 posts to ⌈log₂(N+1)⌉ ranks, which pass it on
    link_in: float
    link_out: float

    @property
    def rank_0(self) -> float:
        return self.receiving + self.encoding + self.posting

    @property
    def largest(self) -> float:
        return max(self.rank_0, self.link_in, self.link_out)

    @property
    def efficiency(self) -> float:
        """The rate over that of as many clients who never wait."""
        return min(1.0, 1 / self.largest)

    @property
    def first(self) -> str:
        """What is nearest to saturation."""
        shares = {"receiving": self.receiving, "posting broadcasts": self.posting, "encoding": self.encoding}
        processor = max(shares, key=lambda name: shares[name])
        links = {"link in": self.link_in, "link out": self.link_out}
        link = max(links, key=lambda name: links[name])
        return f"rank 0: {processor}" if self.rank_0 >= links[link] else link


def costs(path: Path, *, buffer_grows: bool) -> Costs:
    """Raises TraceError where the run says nothing of rank 0's messages."""
    with open_trace(path, salvage=True) as trace:
        updates, messages = taken(trace.table("updates")), of_rank_0(trace)
        received = messages[(messages["end"] == 1) & (messages["kind"] == KIND_NUMBERS["update"])]
        sent = messages[(messages["end"] == 0) & (messages["kind"] == KIND_NUMBERS["broadcast"])]
        if not len(received) or not len(sent):
            raise TraceError(f"{path}: no uploads and broadcasts of rank 0; give a wall run")
        a = trace.attributes
        return Costs(
            run=path.name,
            ranks=int(a["ranks"]),
            train_s=float(np.median(updates["train_seconds"])),
            receive_s=_receive_s(received),
            encode_s=float(np.median(sent["t_encode_end"] - sent["t_encode_begin"])),
            post_s=_post_s(sent),
            up_bytes=int(a["payload_bytes_per_upload"]) + HEADER_BYTES,
            down_bytes=int(a["payload_bytes_per_broadcast"]) + HEADER_BYTES,
            buffer_size=int(a["buffer_size"]),
            buffer_grows=buffer_grows,
        )


def of_rank_0(trace: Trace) -> np.ndarray:
    """The messages' rows of rank 0's ends."""
    parts = []
    for block in trace.blocks("messages"):
        own = np.where(block["end"] == 0, block["src"], block["dst"]) == 0
        parts.append(block[own])
    return np.concatenate(parts) if parts else trace.table("messages")[:0]


def _receive_s(received: np.ndarray) -> float:
    """From one decode's begin to the next one's where both came out of one poll: then nothing lies between them but
    the first one's books. Without such pairs, the decode alone."""
    rows = np.sort(received, order="t_decode_begin")
    together = np.diff(rows["t_complete"]) < SAME_POLL_S
    gaps = np.diff(rows["t_decode_begin"])[together]
    decode = rows["t_decode_end"] - rows["t_decode_begin"]
    return float(np.median(gaps)) if len(gaps) >= 10 else float(np.median(decode))


def _post_s(sent: np.ndarray) -> float:
    """From one link's post to the next one's, within a broadcast; with one link, from the encoding's end."""
    rows = np.sort(sent, order=["version", "t_post"])
    gaps = np.diff(rows["t_post"])[np.diff(rows["version"]) == 0]
    first = rows["t_post"] - rows["t_encode_end"]
    return float(np.median(gaps)) if len(gaps) else float(np.median(first))


def load(c: Costs, ranks: int, *, train_s: float, link_gbit: float) -> Load:
    """What so many ranks would ask of rank 0 and of its link, of link_gbit each way."""
    clients = ranks - 1
    rate = clients / train_s
    steps = rate / (clients if c.buffer_grows else c.buffer_size)
    link_bytes = link_gbit * 1e9 / 8
    return Load(
        ranks=ranks,
        receiving=rate * c.receive_s,
        encoding=steps * c.encode_s,
        posting=steps * clients * c.post_s,
        posting_by_tree=steps * math.ceil(math.log2(clients + 1)) * c.post_s,
        link_in=rate * c.up_bytes / link_bytes,
        link_out=steps * clients * c.down_bytes / link_bytes,
    )


def saturates_at(c: Costs, *, train_s: float, link_gbit: float, most: int = 10_000_000) -> tuple[int, str]:
    """(the fewest ranks at which something saturates, what); (most, "nothing") where nothing does before."""

    def full(ranks: int) -> bool:
        return load(c, ranks, train_s=train_s, link_gbit=link_gbit).largest >= 1

    if not full(most):
        return most, "nothing"
    low, high = 2, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if full(middle) else (middle + 1, high)
    return low, load(c, low, train_s=train_s, link_gbit=link_gbit).first


def on_network(c: Costs, network: LogGP) -> Costs:
    """The same costs, but a link's post as benchmarks have it."""
    return replace(c, post_s=max(network.o, network.g))


# --- as tables --------------------------------------------------------------------------------------


def paper_grid(c: Costs, *, train_s: float, link_gbit: float, network: LogGP | None = None) -> Grid:
    """network: adds when the last client has a broadcast."""
    at, what = saturates_at(c, train_s=train_s, link_gbit=link_gbit)
    rows = []
    for ranks in PAPER_RANKS:
        x = load(c, ranks, train_s=train_s, link_gbit=link_gbit)
        shares = (x.receiving, x.encoding, x.posting, x.rank_0, x.posting_by_tree, x.link_in, x.link_out)
        spread = [f"{1e3 * seconds:,.3g}" for seconds in _spread_s(c, ranks, network)]
        first = x.first if x.largest >= 1 else NOTHING
        rows.append((f"{ranks:,}", *map(_share, shares), *spread, f"{100 * x.efficiency:.0f}%", first))
    buffer = "K = clients" if c.buffer_grows else f"K = {c.buffer_size}"
    source = "r and e measured, p and the link as fitted" if network else "r, e and p measured"
    headings = (
        "ranks",
        "receiving",
        "encoding",
        "posting",
        "rank 0",
        "posting by tree",
        "link in",
        "link out",
    )
    spreads = ("fan-out, ms", "tree, ms") if network else ()
    return Grid(
        f"On paper, not measured beyond {c.ranks} ranks: shares of rank 0 and of its {link_gbit:.3g} Gbit/s link; "
        f"T = {train_s:.4g} s, {buffer}, r = {1e6 * c.receive_s:.0f} µs, e = {1e6 * c.encode_s:.0f} µs, "
        f"p = {1e6 * c.post_s:.1f} µs ({source}, {c.run}), {c.up_bytes:,} bytes up, {c.down_bytes:,} down. "
        f"First to saturate: {what}, at {at:,} ranks.",
        (*headings, *spreads, "efficiency", "saturated"),
        tuple(rows),
    )


def _spread_s(c: Costs, ranks: int, network: LogGP | None) -> list[float]:
    """Seconds until the last client has applied a broadcast, by fan-out and by tree; [] without a model."""
    return [broadcast_s(network, way, ranks, c.down_bytes) for way in ("fanout", "tree")] if network else []


def _share(value: float) -> str:
    return f"{100 * value:,.1f}%" if value < 10 else f"{100 * value:,.0f}%"


def as_json(c: Costs, *, train_s: float, link_gbit: float, network: LogGP | None = None) -> dict[str, Any]:
    at, what = saturates_at(c, train_s=train_s, link_gbit=link_gbit)
    loads = [load(c, ranks, train_s=train_s, link_gbit=link_gbit) for ranks in PAPER_RANKS]
    return {
        "costs": asdict(c),
        "train_s": train_s,
        "link_gbit": link_gbit,
        "network": asdict(network) if network else None,
        "saturates": {"ranks": at, "what": what},
        "loads": [
            asdict(x)
            | {"efficiency": x.efficiency}
            | dict(zip(("fanout_s", "tree_s"), _spread_s(c, x.ranks, network), strict=False))
            for x in loads
        ],
    }
