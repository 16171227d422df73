"""A trace as an OTF2 archive, for Vampir, ViTE, Scalasca and others: ranks are locations, activities are regions.

The package otf2 (PyPI) does the writing; it brings the library along. Times are those of the trace, corrected to
rank 0's clock, in nanoseconds; the correction's error bounds are the standard deviations of OTF2's clock offsets.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from qafel_analysis.read.extras import extra
from qafel_analysis.read.timeline import Trainings, Window, of_messages, whole_run

from qafel_mpi.trace.reader import Trace, TraceError, open_trace
from qafel_mpi.trace_schema import TAG_DOWN, TAG_UP

NAME = "traces"  # of the anchor file, NAME.otf2, in the archive's folder
REGIONS = {
    "train": "local training of a client, or of a worker's batch",
    "encode": "quantizing and packing a message",
    "send": "nothing is done here while a nonblocking send is under way",
    "decode": "checking a message, unpacking it and adding it up",
    "step": "the server's step, with the encoding of what it broadcasts",
    "wait": "nothing is done here, and nothing is being sent",
}
BATCH_ROWS = 4_194_304  # of /messages that are held at a time, but for a rank that has more
_SENDER, _RECEIVER = 0, 1
_TICKS = 1_000_000_000  # a second
_EVENTS = ("mpi_isend", "mpi_irecv_request", "mpi_isend_complete", "mpi_irecv")  # at one time in this order
_WITH_PEER = (0, 3)  # the others have the request's number alone
_SLICE = 65_536  # events that are Python objects at a time


@dataclass(frozen=True)
class Written:
    """What an archive got. bytes_sent: of sends, with headers."""

    anchor: Path
    sends: int
    receives: int
    bytes_sent: int


def to_otf2(path: Path, folder: Path, window: Window | None = None) -> Written:
    """Write the archive folder/traces.otf2, which replaces an older archive in that folder.

    Messages are nonblocking sends and receives in a communicator of all ranks; their length is that on the wire.
    window: seconds since the run began; the whole run where left out. Memory grows with the messages of the busiest
    rank. Raises MissingExtra without otf2, FileExistsError where the folder holds something else.
    """
    api = extra("otf2", "otf2")
    if folder.exists() and not (folder / f"{NAME}.otf2").is_file():
        raise FileExistsError(17, "exists, and is no OTF2 archive that could be replaced", str(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        open_trace(path, salvage=True) as trace,
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place,
    ):
        made = Path(place) / folder.name
        written = _Archive(api, trace, made, window).write()
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    return Written(folder / f"{NAME}.otf2", *written)


class _Archive:
    """One archive while it is written."""

    def __init__(self, api: Any, trace: Trace, folder: Path, window: Window | None):
        self._api, self._trace, self._folder, self._window = api, trace, folder, window
        self._counts = _messages_by_rank(trace)
        known = {int(row["rank"]) for row in trace.table("ranks", ["rank"])}
        self._ranks = sorted(known | self._counts.keys()) or [0]
        if self._ranks[0] < 0 or self._ranks[-1] >= max(trace.all_ranks, len(known)):
            raise TraceError(f"{trace.path}: damaged, /messages has a rank that is none of the run's")
        self._trainings = Trainings(trace)
        self._origin_s = _first_s(trace)
        self._end_s = (window or whole_run(trace)).end_s

    def write(self) -> tuple[int, int, int]:
        """(sends, receives, bytes sent)."""
        totals = np.zeros(3, dtype=np.int64)
        with closing(
            self._api.writer.Writer(str(self._folder), archive_name=NAME, timer_resolution=_TICKS)
        ) as archive:
            archive.creator = "qafel-analysis export --to otf2"
            archive.description = str(self._trace.attributes.get("algorithm", ""))
            locations = self._locations(archive.definitions)
            comm = self._communicator(archive.definitions, locations)
            paradigm = self._api.Paradigm
            regions = {
                name: archive.definitions.region(name, description=meaning, paradigm=paradigm.USER)
                for name, meaning in REGIONS.items()
            }
            for rank, rows in self._rows():
                events = archive.event_writer_from_location(locations[rank])
                spans = self._spans(rank, rows)
                self._clock(events, rank)
                totals += _Rank(events, regions, comm, self._tick).write(spans, self._inside(rows))
            with suppress(ValueError):  # the library would say that the run began now
                started = datetime.fromisoformat(str(self._trace.attributes.get("started", "")))
                archive._realtime_timestamp = started.timestamp() + min(0.0, self._origin_s)
        return int(totals[0]), int(totals[1]), int(totals[2])

    def _tick(self, seconds: Any) -> Any:
        """Of a time or an array of times; 0 where there is none."""
        return np.maximum(0, np.rint(np.nan_to_num(_TICKS * (seconds - self._origin_s)))).astype(np.int64)

    def _locations(self, definitions: Any) -> dict[int, Any]:
        """A host is a node, a rank is a process on it with one location."""
        about = {int(row["rank"]): row for row in self._trace.table("ranks")}
        machine = definitions.system_tree_node("machine", class_name="machine")
        hosts: dict[str, Any] = {}
        found = {}
        for rank in self._ranks:
            host = about[rank]["host"].decode("utf-8", "replace") if rank in about else "unknown host"
            if host not in hosts:
                hosts[host] = definitions.system_tree_node(host, class_name="node", parent=machine)
            name = f"rank {rank}, {'client' if rank else 'server'}"
            group = definitions.location_group(name, system_tree_parent=hosts[host])
            found[rank] = definitions.location(f"rank {rank}", group=group)
        return found

    def _communicator(self, definitions: Any, locations: dict[int, Any]) -> Any:
        """Of all ranks: senders and receivers of OTF2's events are ranks in it."""
        kinds, paradigm, members = self._api.GroupType, self._api.Paradigm.MPI, tuple(locations.values())
        definitions.group("MPI", group_type=kinds.COMM_LOCATIONS, paradigm=paradigm, members=members)
        group = definitions.group("", group_type=kinds.COMM_GROUP, paradigm=paradigm, members=members)
        return definitions.comm("MPI_COMM_WORLD", group=group)

    def _rows(self) -> Iterator[tuple[int, np.ndarray]]:
        """Every rank's own rows of /messages, in as many passes as memory asks for."""
        for batch in _batches(self._ranks, self._counts):
            parts: dict[int, list[np.ndarray]] = {rank: [] for rank in batch}
            for block in self._trace.blocks("messages") if any(self._counts.get(r) for r in batch) else ():
                owners = _owners(block)
                for rank in np.intersect1d(owners, batch).tolist():
                    parts[rank].append(block[owners == rank])
            for rank in batch:
                yield rank, np.concatenate(parts.pop(rank) or [self._trace.table("messages")[:0]])

    def _spans(self, rank: int, rows: np.ndarray) -> pd.DataFrame:
        """What this rank did, without overlaps but for what interrupts a training; idle time too."""
        whole = rows[rows["dropped"] == 0]
        trained = [self._trainings.of(whole), self._trainings.under_way(self._end_s)]
        found = pd.concat([of_messages(whole), *trained], ignore_index=True)
        found = found[found["rank"] == rank]
        stepped = (found["activity"] == "encode") & (found["kind"] == "broadcast") & (rank == 0)
        found["activity"] = found["activity"].mask(stepped, "step")
        begin_s = self._window.begin_s if self._window else self._origin_s
        found["begin_s"] = found["begin_s"].clip(lower=begin_s)
        found["end_s"] = found["end_s"].clip(upper=self._end_s) if self._window else found["end_s"]
        found = found[found["end_s"] >= found["begin_s"]]
        sends, busy = (found[(found["activity"] == "send") == is_send] for is_send in (True, False))
        return pd.concat([busy, _idle(busy, sends, begin_s, self._end_s)], ignore_index=True)

    def _inside(self, rows: np.ndarray) -> np.ndarray:
        if self._window is None:
            return rows
        at = np.where(rows["end"] == _SENDER, rows["t_post"], rows["t_complete"])
        return rows[(at >= self._window.begin_s) & (at <= self._window.end_s)]

    def _clock(self, events: Any, rank: int) -> None:
        """The offsets have been applied, so that 0 is left of them; how wrong that may be is the error bound."""
        low = extra("_otf2", "otf2")
        clock = self._trace.clocks.of(rank)
        at = clock.local_s + clock.offset_s - clock.origin_s if rank else np.zeros(1)
        last = -1
        for seconds, bound_s in zip(at.tolist(), clock.error_bound_s.tolist(), strict=True):
            if (tick := int(self._tick(seconds))) > last and np.isfinite(bound_s):
                low.DefWriter_WriteClockOffset(events._def_handle, tick, 0, bound_s * _TICKS)
                last = tick


class _Rank:
    """The events of one rank, written in order of time."""

    def __init__(self, events: Any, regions: dict[str, Any], comm: Any, tick: Callable[[Any], Any]):
        self._events, self._regions, self._comm, self._tick = events, regions, comm, tick

    def write(self, spans: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
        """(sends, receives, bytes sent)."""
        calls = _nested(self._slices(spans))
        call = next(calls, None)
        for tick, name, arguments in self._messages(rows):
            while call is not None and call[0] <= tick:
                self._call(*call)
                call = next(calls, None)
            getattr(self._events, name)(tick, *arguments)
        while call is not None:
            self._call(*call)
            call = next(calls, None)
        sent = rows["end"] == _SENDER
        received = np.isfinite(rows["t_complete"]) & ~sent
        return np.array([sent.sum(), received.sum(), rows["wire_bytes"][sent].sum()], dtype=np.int64)

    def _call(self, tick: int, enters: bool, name: str) -> None:
        (self._events.enter if enters else self._events.leave)(tick, self._regions[name])

    def _slices(self, spans: pd.DataFrame) -> Iterator[tuple[int, int, str]]:
        begins, ends = (
            self._tick(spans[name].to_numpy(dtype=float)).tolist() for name in ("begin_s", "end_s")
        )
        for begin, end, name in zip(begins, ends, spans["activity"].tolist(), strict=True):
            if end > begin or name not in ("send", "wait"):  # a gap of less than a tick is none
                yield begin, end, name

    def _messages(self, rows: np.ndarray) -> Iterator[tuple[int, str, tuple[Any, ...]]]:
        """(tick, what to write, its arguments) in order of time. A request's number is that of its row."""
        sent, done = rows["end"] == _SENDER, np.isfinite(rows["t_complete"])
        post, complete = self._tick(rows["t_post"]), self._tick(rows["t_complete"])
        ends = (
            (sent, post),
            (~sent & done, np.minimum(post, complete)),
            (sent & done, complete),
            (~sent & done, complete),
        )
        numbers = np.concatenate([np.flatnonzero(chosen) for chosen, _ in ends])
        what = np.repeat(np.arange(len(ends)), [np.count_nonzero(chosen) for chosen, _ in ends])
        ticks = np.concatenate([tick[chosen] for chosen, tick in ends])
        order = np.lexsort((numbers, what, ticks))
        for begin in range(0, len(order), _SLICE):
            part = order[begin : begin + _SLICE]
            own = rows[numbers[part]]
            peers = np.where(own["end"] == _SENDER, own["dst"], own["src"]).tolist()
            columns = (ticks[part], what[part], numbers[part], own["dst"], own["wire_bytes"])
            for peer, tick, k, number, dst, length in zip(peers, *(c.tolist() for c in columns), strict=True):
                tag = TAG_DOWN if dst else TAG_UP
                about = (peer, self._comm, tag, length, number) if k in _WITH_PEER else (number,)
                yield tick, _EVENTS[k], about


def _nested(slices: Iterable[tuple[int, int, str]]) -> Iterator[tuple[int, bool, str]]:
    """Slices (begin, end, name) -> (tick, whether it is entered, name) in order of time, properly nested.

    What begins within another and ends after it is left with that, and entered again.

    >>> list(_nested([(0, 5, "a"), (3, 7, "b")]))
    [(0, True, 'a'), (3, True, 'b'), (5, False, 'b'), (5, False, 'a'), (5, True, 'b'), (7, False, 'b')]
    """
    waiting = [(begin, -max(begin, end), name) for begin, end, name in slices]
    heapify(waiting)  # at one begin the longest is outermost
    open_: list[tuple[int, str]] = []  # (end, name), the innermost last
    while waiting:
        begin, minus_end, name = heappop(waiting)
        end = -minus_end
        while open_ and open_[-1][0] <= begin:
            left, inner = open_.pop()
            yield left, False, inner
        if open_ and end > open_[-1][0]:
            heappush(waiting, (open_[-1][0], -end, name))
            end = open_[-1][0]
        open_.append((end, name))
        yield begin, True, name
    for end, name in reversed(open_):
        yield end, False, name


def _idle(busy: pd.DataFrame, sends: pd.DataFrame, begin_s: float, end_s: float) -> pd.DataFrame:
    """The gaps between what a rank does: send while one is under way, else wait."""
    gaps = _gaps(_merged(busy), begin_s, end_s)
    sending = _merged(sends)
    parts = []
    for name, chosen in (
        ("send", _both(gaps, sending)),
        ("wait", _both(gaps, _gaps(sending, begin_s, end_s))),
    ):
        parts.append(pd.DataFrame({"begin_s": chosen[:, 0], "end_s": chosen[:, 1], "activity": name}))
    return pd.concat(parts, ignore_index=True)


def _merged(spans: pd.DataFrame) -> np.ndarray:
    """Their union: (n, 2), in order, apart from each other."""
    rows = spans.sort_values("begin_s")[["begin_s", "end_s"]].to_numpy(dtype=float)
    if not len(rows):
        return rows.reshape(0, 2)
    reached = np.maximum.accumulate(rows[:, 1])
    first = np.flatnonzero(np.append(True, rows[1:, 0] > reached[:-1]))
    return np.column_stack([rows[first, 0], reached[np.append(first[1:], len(rows)) - 1]])


def _gaps(union: np.ndarray, begin_s: float, end_s: float) -> np.ndarray:
    found = np.column_stack([np.append(begin_s, union[:, 1]), np.append(union[:, 0], max(end_s, begin_s))])
    return found[found[:, 1] > found[:, 0]]


def _both(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where both unions are: (n, 2), in order."""
    edges = np.unique(np.concatenate([a.ravel(), b.ravel()]))
    begins, ends = edges[:-1], edges[1:]

    def within(union: np.ndarray) -> np.ndarray:
        if not len(union):
            return np.zeros(len(begins), dtype=bool)
        at = np.searchsorted(union[:, 0], begins, side="right") - 1
        return (at >= 0) & (begins < union[np.maximum(at, 0), 1])

    chosen = within(a) & within(b) if len(edges) else np.zeros(0, dtype=bool)
    return np.column_stack([begins[chosen], ends[chosen]])


def _owners(rows: np.ndarray) -> np.ndarray:
    """The rank that wrote each row."""
    return np.where(rows["end"] == _SENDER, rows["src"], rows["dst"])


def _messages_by_rank(trace: Trace) -> dict[int, int]:
    found: dict[int, int] = {}
    for block in trace.blocks("messages", ["end", "src", "dst"]):
        ranks, counts = np.unique(_owners(block), return_counts=True)
        for rank, count in zip(ranks.tolist(), counts.tolist(), strict=True):
            found[rank] = found.get(rank, 0) + count
    return found


def _batches(ranks: Sequence[int], counts: dict[int, int]) -> Iterator[list[int]]:
    batch: list[int] = []
    held = 0
    for rank in ranks:
        own = counts.get(rank, 0)
        if batch and held + own > BATCH_ROWS:
            yield batch
            batch, held = [], 0
        batch.append(rank)
        held += own
    yield batch


def _first_s(trace: Trace) -> float:
    """The earliest time that is written: OTF2's clock has no negative times. 0 where nothing is before the begin."""
    names = ["t_encode_begin", "t_post", "t_complete", "t_decode_begin"]
    blocks = trace.blocks("messages", names)
    return min((float(np.nanmin(block[n], initial=0.0)) for block in blocks for n in names), default=0.0)
