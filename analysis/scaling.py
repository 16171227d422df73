"""Scaling studies: efficiency over ranks as measured, and rank 0's costs carried to thousands of ranks on paper.

On paper: N clients whose update takes T seconds send N/T updates a second. Rank 0 spends r seconds on each, and on
each server step, one in K updates, e seconds to encode and p seconds a link to post the broadcast:

    load = N/T · (r + (e + N·p) / K)

Its link carries N/T updates in and N/T · N/K broadcasts out. Whatever comes to 1 first saturates; past it the rate
stays where it is and clients wait. r, e and p are medians from a trace, in the state of the machine that made it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from qafel_analysis.grid import NOTHING, Grid

from qafel_mpi.trace.reader import Trace, TraceError, open_trace
from qafel_mpi.trace_schema import HEADER_BYTES, KIND_NUMBERS

PAPER_RANKS = (32, 100, 320, 1000, 3200, 10000)
SAME_POLL_S = 100e-6  # messages seen to be complete within so long came out of one poll


@dataclass(frozen=True)
class Point:
    """One run. seconds: from the first training's start to the last update used; virtual clock: of the whole run."""

    run: str
    algorithm: str
    driver: str
    ranks: int
    workers: int  # ranks that train: all but rank 0, and rank 0 where it is alone
    buffer_size: int
    uploads: int
    seconds: float

    @property
    def rate(self) -> float:
        """Updates a second."""
        return self.uploads / self.seconds


@dataclass(frozen=True)
class Costs:
    """Medians of one wall run, seconds and bytes."""

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
    def first(self) -> str:
        """What is nearest to saturation."""
        shares = {"receiving": self.receiving, "posting broadcasts": self.posting, "encoding": self.encoding}
        processor = max(shares, key=lambda name: shares[name])
        links = {"link in": self.link_in, "link out": self.link_out}
        link = max(links, key=lambda name: links[name])
        return f"rank 0: {processor}" if self.rank_0 >= links[link] else link


def point(path: Path) -> Point:
    """Raises TraceError where the run has no updates."""
    with open_trace(path, salvage=True) as trace:
        a, updates = trace.attributes, trace.table("updates")
        used = updates[updates["weight"] > 0]
        if not len(used):
            raise TraceError(f"{path}: no update was used; nothing to scale")
        wall = a.get("driver") == "wall"
        span = float(used["finish_s"].max() - used["start_s"].min()) if wall else float(a["seconds"])
        ranks = int(a["ranks"])
        return Point(
            run=str(path),
            algorithm=str(a["algorithm"]),
            driver=str(a["driver"]),
            ranks=ranks,
            workers=max(1, ranks - 1),
            buffer_size=int(a["buffer_size"]),
            uploads=len(used),
            seconds=span,
        )


def measured(points: Sequence[Point]) -> Iterator[tuple[Point, float, float]]:
    """(point, speed-up, efficiency) over the run of the same algorithm and clock with the fewest ranks.

    Speed-up is the ratio of rates, so it is one formula for strong and weak scaling; efficiency is speed-up over
    the ratio of workers.
    """
    for p in sorted(points, key=lambda p: (p.driver, p.algorithm, p.ranks)):
        alike = [q for q in points if (q.driver, q.algorithm) == (p.driver, p.algorithm)]
        base = min(alike, key=lambda q: q.ranks)
        faster = p.rate / base.rate
        yield p, faster, faster * base.workers / p.workers


def costs(path: Path, *, buffer_grows: bool) -> Costs:
    """Raises TraceError where the run says nothing of rank 0's messages."""
    with open_trace(path, salvage=True) as trace:
        updates, messages = trace.table("updates"), of_rank_0(trace)
        received = messages[(messages["end"] == 1) & (messages["kind"] == KIND_NUMBERS["update"])]
        sent = messages[(messages["end"] == 0) & (messages["kind"] == KIND_NUMBERS["broadcast"])]
        if not len(received) or not len(sent):
            raise TraceError(f"{path}: no uploads and broadcasts of rank 0; give a wall run")
        a = trace.attributes
        return Costs(
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
        found = load(c, ranks, train_s=train_s, link_gbit=link_gbit)
        return max(found.rank_0, found.link_in, found.link_out) >= 1

    if not full(most):
        return most, "nothing"
    low, high = 2, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if full(middle) else (middle + 1, high)
    return low, load(c, low, train_s=train_s, link_gbit=link_gbit).first


# --- as tables --------------------------------------------------------------------------------------


def measured_grid(points: Sequence[Point]) -> Grid:
    rows = tuple(
        (
            p.algorithm, p.driver, str(p.ranks), str(p.workers), str(p.buffer_size), f"{p.uploads:,}",
            f"{p.seconds:.2f}", f"{p.rate:.1f}", f"{faster:.2f}", f"{100 * efficiency:.0f}%",
        )
        for p, faster, efficiency in measured(points)
    )  # fmt: skip
    return Grid(
        "Speed-up: the rate over that of the fewest ranks. Efficiency: speed-up over the ratio of ranks that train.",
        ("algorithm", "clock", "ranks", "workers", "K", "updates", "seconds", "updates/s", "speed-up", "efficiency"),
        rows,
        texts=2,
    )  # fmt: skip


def paper_grid(c: Costs, *, train_s: float, link_gbit: float) -> Grid:
    loads = [load(c, ranks, train_s=train_s, link_gbit=link_gbit) for ranks in PAPER_RANKS]
    at, what = saturates_at(c, train_s=train_s, link_gbit=link_gbit)
    rows = tuple(
        (
            f"{x.ranks:,}", _share(x.receiving), _share(x.encoding), _share(x.posting), _share(x.rank_0),
            _share(x.posting_by_tree), _share(x.link_in), _share(x.link_out), x.first if _full(x) else NOTHING,
        )
        for x in loads
    )  # fmt: skip
    buffer = "K = clients" if c.buffer_grows else f"K = {c.buffer_size}"
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
    return Grid(
        f"On paper, not measured: shares of rank 0 and of its {link_gbit:g} Gbit/s link; T = {train_s:.4g} s, "
        f"{buffer}, r = {1e6 * c.receive_s:.0f} µs, e = {1e6 * c.encode_s:.0f} µs, p = {1e6 * c.post_s:.1f} µs, "
        f"{c.up_bytes:,} bytes up, {c.down_bytes:,} down. First to saturate: {what}, at {at:,} ranks.",
        (*headings, "saturated"),
        rows,
    )


def _full(x: Load) -> bool:
    return max(x.rank_0, x.link_in, x.link_out) >= 1


def _share(value: float) -> str:
    return f"{100 * value:,.1f}%" if value < 10 else f"{100 * value:,.0f}%"


def as_json(
    points: Sequence[Point], c: Costs | None, *, train_s: float | None, link_gbit: float
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "measured": [
            asdict(p) | {"updates_per_second": p.rate, "speed_up": s, "efficiency": e}
            for p, s, e in measured(points)
        ]
    }
    if c is not None:
        t = train_s or c.train_s
        at, what = saturates_at(c, train_s=t, link_gbit=link_gbit)
        found["paper"] = {
            "costs": asdict(c),
            "train_s": t,
            "link_gbit": link_gbit,
            "saturates": {"ranks": at, "what": what},
            "loads": [asdict(load(c, n, train_s=t, link_gbit=link_gbit)) for n in PAPER_RANKS],
        }
    return found
