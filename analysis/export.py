"""A trace in other programs' formats: Perfetto/Chrome trace JSON, CSV and Parquet. All are written in blocks."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from qafel_analysis.read.damage import shown
from qafel_analysis.read.extras import extra
from qafel_analysis.read.frames import LazyTable
from qafel_analysis.read.rows import public
from qafel_analysis.read.timeline import Trainings, Window, of_messages
from qafel_analysis.tables.compare import Run

from qafel_mpi.outputs import whole
from qafel_mpi.trace.reader import Trace, open_trace
from qafel_mpi.trace_schema import KIND_NAMES


def to_perfetto(path: Path, out: Path, window: Window | None = None) -> int:
    """Write the timeline as JSON for https://ui.perfetto.dev or chrome://tracing; gzipped if out ends in .gz.

    A rank is a process, rank r has pid r + 1, with a thread for each of its activities and a track for its sends,
    which go on side by side; arrows lead from the encoding of a message to its decoding. Times are from the run's
    begin, or from the first event where that is earlier: Perfetto drops what is negative. window: seconds since the
    run began; the whole run where left out. Returns the number of events.
    """
    count = 0
    with (
        open_trace(path, salvage=True) as trace,
        whole(out) as part,
        _open(part, out.suffix == ".gz") as file,
    ):
        file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        for event in _events(trace, window):
            file.write((",\n" if count else "") + json.dumps(event))
            count += 1
        file.write("\n]}\n")
    return count


def _open(out: Path, zipped: bool) -> IO[str]:
    return (
        gzip.open(out, "wt", encoding="utf-8", errors="backslashreplace")
        if zipped
        else open(out, "w", encoding="utf-8", errors="backslashreplace")
    )


def _events(trace: Trace, window: Window | None) -> Iterator[dict[str, Any]]:
    yield from _names(trace)
    trainings, track = Trainings(trace), _Tracks(_first_ns(trace))
    for block in trace.blocks("messages", rows=32_768):
        rows = block
        if window is not None:
            at = np.where(block["end"] == 0, block["t_post"], block["t_complete"])
            rows = block[(at >= window.begin_s) & (at <= window.end_s)]
        if not len(rows):
            continue
        spans = pd.concat([of_messages(rows[rows["dropped"] == 0]), trainings.of(rows)], ignore_index=True)
        for span in spans[spans["activity"] != "send"].itertuples(index=False):
            yield from track.span(span)
        for row in rows[rows["dropped"] == 0]:
            yield from _message(row, track)


def _first_ns(trace: Trace) -> int:
    """The earliest time that is written, in nanoseconds, where it is before the run's begin; else 0."""
    first_s, longest_s = 0.0, 0.0
    names = ["t_encode_begin", "t_post", "t_complete", "t_decode_begin"]
    for block in trace.blocks("messages", names):
        first_s = min([first_s, *(np.nanmin(block[n], initial=0.0) for n in names)])
    for block in trace.blocks("updates", ["train_seconds"]):
        longest_s = np.nanmax(block["train_seconds"], initial=longest_s)
    return math.floor(1e9 * (first_s - (longest_s if first_s < 0 else 0)))


class _Tracks:
    """Where and when on Perfetto's tracks something is; whole nanoseconds, so that begin and end round alike."""

    def __init__(self, origin_ns: int):
        self._origin_ns = origin_ns
        self._ends: dict[tuple[int, int], int] = {}

    def at(self, seconds: float) -> int:
        return max(0, round(1e9 * float(seconds)) - self._origin_ns)

    def event(self, phase: str, rank: int, activity: str, at_ns: int, **fields: Any) -> dict[str, Any]:
        # 0 is the kernel's idle task to Perfetto, as process and as thread; a thread's number is of the whole system.
        pid = int(rank) + 1
        tid = pid * len(ACTIVITIES) + ACTIVITIES.index(activity)
        return {"ph": phase, "pid": pid, "tid": tid, "ts": at_ns / 1000, **fields}

    def span(self, span: Any) -> Iterator[dict[str, Any]]:
        """A slice. One that begins before the last one of its track has ended is cut: Perfetto would drop it."""
        begin, end = self.at(span.begin_s), self.at(span.end_s)
        key = int(span.rank), ACTIVITIES.index(span.activity)
        before = self._ends.get(key, 0)
        if begin < before < end:
            begin = before
        self._ends[key] = max(before, end)
        about = {"peer": int(span.peer), "wire_bytes": int(span.wire_bytes)} if span.kind else {}
        name = f"{span.activity} {span.kind}".strip()
        dur = max(1, end - begin) / 1000
        yield self.event(
            "X", span.rank, span.activity, begin, name=name, cat=span.activity, dur=dur, args=about
        )


ACTIVITIES = ("train", "encode", "decode")  # a thread each: with a progress thread they go on side by side


def _message(row: np.void, track: _Tracks) -> Iterator[dict[str, Any]]:
    """A send, as an asynchronous event, or one end of an arrow; both ends find the same id."""
    parts = "-".join(str(row[n]) for n in ("kind", "src", "dst", "client", "version", "sequence"))
    identity = (
        "0x" + hashlib.blake2b(parts.encode(), digest_size=7).hexdigest()
    )  # Perfetto reads hexadecimal alone
    kind = KIND_NAMES.get(int(row["kind"]), "unknown")
    about = {"id": identity, "cat": "send", "name": f"send {kind}"}
    arrow = {"id": identity, "cat": "message", "name": kind}
    if row["end"] == 0:
        if np.isfinite(row["t_complete"]):
            args = {"to": int(row["dst"]), "wire_bytes": int(row["wire_bytes"])}
            yield track.event("b", row["src"], "encode", track.at(row["t_post"]), **about, args=args)
            yield track.event("e", row["src"], "encode", track.at(row["t_complete"]), **about)
        if np.isfinite(row["t_encode_begin"]):
            yield track.event("s", row["src"], "encode", track.at(row["t_encode_begin"]), **arrow)
    elif np.isfinite(row["t_decode_begin"]):
        yield track.event("f", row["dst"], "decode", track.at(row["t_decode_begin"]), **arrow, bp="e")


def _names(trace: Trace) -> Iterator[dict[str, Any]]:
    known = {int(row["rank"]): row for row in trace.table("ranks")}
    track = _Tracks(0)
    for rank in sorted(known) or range(int(trace.attributes.get("ranks", 0))):
        row = known.get(rank)
        host = "" if row is None else f" on {row['host'].decode('utf-8', 'replace')}"
        role = "server" if rank == 0 else "client"
        name = f"rank {rank}, {role}{host}"
        yield track.event("M", rank, ACTIVITIES[0], 0, name="process_name", args={"name": name})
        for activity in ACTIVITIES:
            yield track.event("M", rank, activity, 0, name="thread_name", args={"name": activity})


def to_csv(path: Path, table: str, out: Path) -> int:
    """Write a table as CSV, header first; returns its rows."""
    lazy, count = LazyTable(path, table), 0
    with whole(out) as part, open(part, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        for block in lazy.blocks(rows=65_536):
            block.to_csv(file, index=False, header=count == 0)
            count += len(block)
        if not count:
            file.write(",".join(lazy.columns) + "\n")
    return count


def to_parquet(path: Path, table: str, out: Path) -> int:
    """Write a table as Parquet, a row group a block; returns its rows. Raises MissingExtra without pyarrow."""
    arrow, parquet = extra("pyarrow"), extra("pyarrow.parquet")
    lazy = LazyTable(path, table)
    types = [arrow.string() if d.kind == "S" else arrow.from_numpy_dtype(d) for d in lazy.dtypes.values()]
    schema = arrow.schema(list(zip(lazy.dtypes, types, strict=True)))
    count = 0
    with whole(out) as part, open(part, "wb") as file, parquet.ParquetWriter(file, schema) as writer:
        for block in lazy.blocks():
            writer.write_table(arrow.Table.from_pandas(block, schema=schema, preserve_index=False))
            count += len(block)
    return count


def runs(found: Sequence[Run], out: Path) -> Path:
    """Write one row per run, with the columns of `table --csv`; Parquet if out ends in .parquet."""
    frame = pd.DataFrame([public(run) | {"run": shown(run["run"])} for run in found])
    if out.suffix == ".parquet":
        extra("pyarrow")
        with whole(out) as part, open(part, "wb") as file:
            frame.to_parquet(file, index=False)
    else:
        with whole(out) as part:
            frame.to_csv(part, index=False)
    return out
