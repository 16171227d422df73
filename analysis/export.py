"""A trace in other programs' formats: Perfetto/Chrome trace JSON, CSV and Parquet. All are written in blocks."""

from __future__ import annotations

import gzip
import json
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

from qafel_mpi.trace.reader import Trace, open_trace
from qafel_mpi.trace_schema import KIND_NAMES


def to_perfetto(path: Path, out: Path, window: Window | None = None) -> int:
    """Write the timeline as JSON for https://ui.perfetto.dev or chrome://tracing; gzipped if out ends in .gz.

    A rank is a process with a thread for what it computes and a track for its sends, which go on side by side;
    arrows lead from the encoding of a message to its decoding. window: seconds since the run began; the whole
    run where left out. Returns the number of events.
    """
    count = 0
    with open_trace(path, salvage=True) as trace, _open(out) as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        for event in _events(trace, window):
            file.write((",\n" if count else "") + json.dumps(event))
            count += 1
        file.write("\n]}\n")
    return count


def _open(out: Path) -> IO[str]:
    out.parent.mkdir(parents=True, exist_ok=True)
    return (
        gzip.open(out, "wt", encoding="utf-8", errors="backslashreplace")
        if out.suffix == ".gz"
        else open(out, "w", encoding="utf-8", errors="backslashreplace")
    )


def _events(trace: Trace, window: Window | None) -> Iterator[dict[str, Any]]:
    yield from _names(trace)
    trainings = Trainings(trace)
    for block in trace.blocks("messages", rows=32_768):
        rows = block
        if window is not None:
            at = np.where(block["end"] == 0, block["t_post"], block["t_complete"])
            rows = block[(at >= window.begin_s) & (at <= window.end_s)]
        if not len(rows):
            continue
        spans = pd.concat([of_messages(rows[rows["dropped"] == 0]), trainings.of(rows)], ignore_index=True)
        for span in spans[spans["activity"] != "send"].itertuples(index=False):
            yield _event(
                "X",
                span.rank,
                span.begin_s,
                name=f"{span.activity} {span.kind}".strip(),
                cat=span.activity,
                dur=_us(span.end_s - span.begin_s),
                args={"peer": int(span.peer), "wire_bytes": int(span.wire_bytes)} if span.kind else {},
            )
        for row in rows[rows["dropped"] == 0]:
            yield from _message(row)


def _message(row: np.void) -> Iterator[dict[str, Any]]:
    """A send, as an asynchronous event, or one end of an arrow; both ends find the same id."""
    identity = "-".join(str(row[n]) for n in ("kind", "src", "dst", "client", "version", "sequence"))
    kind = KIND_NAMES.get(int(row["kind"]), "unknown")
    about = {"id": identity, "cat": "send", "name": f"send {kind}"}
    arrow = {"id": identity, "cat": "message", "name": kind}
    if row["end"] == 0:
        if np.isfinite(row["t_complete"]):
            args = {"to": int(row["dst"]), "wire_bytes": int(row["wire_bytes"])}
            yield _event("b", row["src"], row["t_post"], **about, args=args)
            yield _event("e", row["src"], row["t_complete"], **about)
        if np.isfinite(row["t_encode_begin"]):
            yield _event("s", row["src"], row["t_encode_begin"], **arrow)
    elif np.isfinite(row["t_decode_begin"]):
        yield _event("f", row["dst"], row["t_decode_begin"], **arrow, bp="e")


def _event(phase: str, rank: int, at_s: float, **fields: Any) -> dict[str, Any]:
    return {"ph": phase, "pid": int(rank), "tid": 0, "ts": _us(at_s), **fields}


def _us(seconds: float) -> float:
    """Microseconds, to the nanosecond."""
    return round(float(seconds) * 1e6, 3)


def _names(trace: Trace) -> Iterator[dict[str, Any]]:
    known = {int(row["rank"]): row for row in trace.table("ranks")}
    for rank in sorted(known) or range(int(trace.attributes.get("ranks", 0))):
        row = known.get(rank)
        host = "" if row is None else f" on {row['host'].decode('utf-8', 'replace')}"
        role = "server" if rank == 0 else "client"
        yield {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank}, {role}{host}"}}
        yield {"ph": "M", "name": "thread_name", "pid": rank, "tid": 0, "args": {"name": "computing"}}


def to_csv(path: Path, table: str, out: Path) -> int:
    """Write a table as CSV, header first; returns its rows."""
    out.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with open(out, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        for block in LazyTable(path, table).blocks(rows=65_536):
            block.to_csv(file, index=False, header=count == 0)
            count += len(block)
        if not count:
            file.write(",".join(LazyTable(path, table).columns) + "\n")
    return count


def to_parquet(path: Path, table: str, out: Path) -> int:
    """Write a table as Parquet, a row group a block; returns its rows. Raises MissingExtra without pyarrow."""
    arrow, parquet = extra("pyarrow"), extra("pyarrow.parquet")
    out.parent.mkdir(parents=True, exist_ok=True)
    lazy = LazyTable(path, table)
    types = {"u": arrow.uint8(), "f": arrow.float64(), "S": arrow.string()}
    schema = arrow.schema(
        [
            (n, types.get(d.kind) or (arrow.int32() if d.itemsize == 4 else arrow.int64()))
            for n, d in lazy.dtypes.items()
        ]
    )
    count = 0
    with open(out, "wb") as file, parquet.ParquetWriter(file, schema) as writer:
        for block in lazy.blocks():
            writer.write_table(arrow.Table.from_pandas(block, schema=schema, preserve_index=False))
            count += len(block)
    return count


def runs(found: Sequence[Run], out: Path) -> Path:
    """Write one row per run, with the columns of `table --csv`; Parquet if out ends in .parquet."""
    out.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame([public(run) | {"run": shown(run["run"])} for run in found])
    if out.suffix == ".parquet":
        extra("pyarrow")
        with open(out, "wb") as file:
            frame.to_parquet(file, index=False)
    else:
        frame.to_csv(out, index=False)
    return out
