"""Shards -> one HDF5 file. Works on a finished run and on what a killed one left."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qafel_mpi.stdio import printable
from qafel_mpi.trace.claim import discard, is_zombie
from qafel_mpi.trace.clock import Clocks, correct, with_drift
from qafel_mpi.trace.disk import hdf5
from qafel_mpi.trace.seal import write_seal
from qafel_mpi.trace.shards import (
    Scan,
    ShardWriter,
    TraceError,
    read_blocks,
    scan,
    shard_path,
    shard_ranks,
    trace_error,
)
from qafel_mpi.trace_schema import CLOCK, MESSAGE_TIMES, OWN_TIMES, SCHEMA, SCHEMA_VERSION, TABLES

RUN_FILE = "run.json"
MOST_RANKS = 10_000_000
FINAL = ("x", "x_hat")  # vectors beside the rows, each in a file of one block
MERGED_FILE = "merged.txt"  # names the trace that was made from the shards beside it
SUFFIX = ".shards"
UNFINISHED = "failed: the run ended without a result; merged from its shards"

# The long table comes last: what a file that was cut short still holds is then nearly everything.
_ORDER = ("ranks", "faults", "steps", "memory", "encodings", "updates", "messages")
_RAW_TIMES = np.dtype([(name, "<f8") for name in MESSAGE_TIMES])


@dataclass(frozen=True)
class Merged:
    """What a merge made."""

    path: Path
    rows: dict[str, int]
    outcome: str
    lost: dict[str, int] = field(default_factory=dict)  # shard -> torn bytes
    damaged: tuple[str, ...] = ()  # what a wrong byte has spoilt, a phrase each; all else is in the trace
    missing_rows: dict[int, int] = field(
        default_factory=dict
    )  # rank -> rows that it recorded and left nowhere
    missing_ranks: tuple[int, ...] = ()  # ranks that left no shard at all
    not_removed: str = ""  # why the shards are still there though they were to go

    def warnings(self) -> list[str]:
        """What the trace lacks, a sentence each; empty where nothing."""
        lines = [
            f"{shard}: the last {size:,} bytes were cut off and are left out"
            for shard, size in self.lost.items()
        ]
        lines += [f"damaged and left out: {what}" for what in self.damaged]
        some = ", ".join(f"{rows:,} of rank {rank}" for rank, rows in list(self.missing_rows.items())[:8])
        return [*lines, f"recorded rows are in no shard: {some}"] if some else lines


def shards_of(out: Path) -> Path:
    """The folder of shards that belongs to a trace file: runs/a.h5 -> runs/a.shards."""
    return out.with_suffix(SUFFIX)


def write_run(directory: Path, attributes: dict[str, Any]) -> None:
    """Write or replace the run's attributes, atomically. Raises TraceError."""
    temporary = directory / (RUN_FILE + ".part")
    document = {"sha256": _fingerprint(attributes), "run": attributes}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")
        os.replace(temporary, directory / RUN_FILE)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise TraceError(f"{directory / RUN_FILE}: {error.strerror}") from error


def _fingerprint(attributes: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()


def write_final(directory: Path, **vectors: np.ndarray) -> None:
    """Keep the final vectors, of FINAL's names, beside the shards: on the disk when it returns."""
    for name, vector in vectors.items():
        ShardWriter(_final_path(directory, name)).replace(vector, sync=True)


def _final_path(directory: Path, name: str) -> Path:
    return directory / f"final.{name}.npys"


def merge(directory: Path, out: Path | None = None, *, remove: bool = False) -> Merged:
    """Make the trace file from a folder of shards, in blocks: memory does not grow with the run.

    out: default NAME.h5 beside NAME.shards. remove: delete the shards when the file is complete and no rank's are
    missing or damaged: a network file system may show them later, and a second merge then has them. A folder that
    can't be deleted fails nothing. The file appears under its name only when it is whole. A block of rows that is
    damaged is left out and named. Raises TraceError naming what is missing.
    """
    if not directory.is_dir():
        raise TraceError(f"{directory}: no such folder; give the folder of shards of a run, NAME{SUFFIX}")
    if out is None:
        if directory.suffix != SUFFIX:
            raise TraceError(f"{directory}: not a folder of shards (NAME{SUFFIX})")
        out = directory.with_suffix(".h5")
    temporary = out.with_name(f"{out.name}.{socket.gethostname()}.{os.getpid()}.part")  # of no other merge
    _clear_leftovers(out)
    try:
        merged = _write(directory, temporary)
        os.replace(temporary, out)
    except OSError as error:
        shard = Path(error.filename or "").is_relative_to(directory)
        what = f"{error.filename}: can't be read" if shard else f"{out}: can't be written"
        raise TraceError(f"{what}: {error.strerror}; the shards in {directory} are kept") from error
    finally:
        with suppress(OSError):  # a folder that can't be written to may not even be asked
            temporary.unlink(missing_ok=True)
    left = ""
    if remove and not (merged.missing_ranks or merged.damaged or merged.missing_rows):
        left = _removed(directory)
    else:
        with suppress(OSError):  # the trace is what counts; the folder may be read only
            (directory / MERGED_FILE).write_bytes(os.fsencode(out.absolute()))
    return replace(merged, path=out, not_removed=left)


def _clear_leftovers(out: Path) -> None:
    """Remove the unfinished files of merges to this name that were killed on this host. Never raises.

    A merge that goes on keeps its own: its process is there. Of other hosts' processes nobody here knows.
    """
    for path in out.parent.glob(f"{escape(out.name)}.{escape(socket.gethostname())}.*.part"):
        pid = path.name.split(".")[-2]
        if pid.isdecimal() and not _runs(int(pid)):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return not is_zombie(pid)


def _write(directory: Path, path: Path) -> Merged:
    """The trace file of these shards, at `path`, on the disk. Raises OSError and TraceError."""
    attributes = read_run(directory)
    attributes.setdefault("outcome", UNFINISHED)
    missing = _missing_ranks(directory, attributes.get("ranks", 0))
    scans = _scan_all(directory)
    lost = {path.name: found.torn_bytes for path, found in scans.items() if found.torn_bytes}
    damaged = [f"{path.name}: {piece}" for path, found in scans.items() for piece in found.bad]
    gone = _missing_rows(directory, scans)
    rows: dict[str, int] = {}
    with hdf5(path, new=True) as file:
        for name, value in attributes.items():
            file.attrs[name] = _attribute(value)
        file.attrs["schema_version"] = SCHEMA_VERSION
        clock = read_clock(directory)
        clocks = Clocks(clock, float(attributes.get("origin_s", 0.0)))
        file.create_dataset("clock", data=clock)
        rows["clock"] = int(clock.size)
        _final(file, directory, damaged)
        for table in _ORDER:  # all that is no row first: a file that is cut short still has it
            rows[table] = _make_table(file, directory, table, scans)
        file.attrs["rows"] = json.dumps(rows)
        for name, found in (("lost_bytes", lost), ("missing_ranks", missing), ("damaged", damaged)):
            if found:
                file.attrs[name] = json.dumps(found)
        if gone:
            file.attrs["missing_rows"] = json.dumps(gone)
        for table in _ORDER:
            _fill_table(file, directory, table, clocks)
    write_seal(path)
    counts, outcome = {t: rows[t] for t in TABLES}, str(attributes["outcome"])
    return Merged(path, counts, outcome, lost, tuple(damaged), gone, tuple(missing))


def _attribute(value: Any) -> Any:
    """As HDF5 takes it: what is no number or text as JSON, text without bytes that are no UTF-8."""
    plain = isinstance(value, str | bool | float) or (isinstance(value, int) and abs(value) < 2**63)
    text = value if plain else json.dumps(value)
    return printable(text) if isinstance(text, str) else text


def _removed(directory: Path) -> str:
    """Delete the shards of a run whose trace is complete; why a part of them is still there, or an empty string."""
    try:
        discard(directory)
    except OSError as error:
        return f"its shards can't be removed ({error.strerror}: {error.filename}); delete {directory}"
    return ""


def merged_into(directory: Path) -> Path | None:
    """The trace that holds all of a folder of shards; None where there is none or the shards have grown since."""
    try:
        note = directory / MERGED_FILE
        trace = Path(os.fsdecode(note.read_bytes()))
        newest = max((path.stat().st_mtime_ns for path in directory.glob("*.npys")), default=0)
        return trace if trace.exists() and newest <= note.stat().st_mtime_ns else None
    except OSError:
        return None


def read_run(directory: Path) -> dict[str, Any]:
    """The run's attributes as they were last written; {} where a run was killed before it wrote them.

    Raises TraceError where the folder is no run's.
    """
    path = directory / RUN_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        attributes: dict[str, Any] = document["run"]
        if document["sha256"] != _fingerprint(attributes):
            raise ValueError("its checksum is wrong")
        if not isinstance(attributes, dict) or not 0 <= int(attributes.get("ranks", 0)) <= MOST_RANKS:
            raise ValueError("it describes no run")
    except FileNotFoundError:
        if not any(directory.glob("*.npys")):
            raise TraceError(f"{directory}: neither {RUN_FILE} nor shards: not a run's folder") from None
        return {}
    except OSError as error:
        raise trace_error(path, f"{path}: {error.strerror}", error) from error
    except (
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ) as error:  # a damaged disk: the rows are worth more than their description
        return {"outcome": f"failed: {RUN_FILE} could not be read ({error}); merged from the shards"}
    return attributes


def read_clock(directory: Path) -> np.ndarray:
    """All rows of /clock, with drift."""
    rows = [block for rank in shard_ranks(directory, "clock") for block in _blocks(directory, "clock", rank)]
    return with_drift(np.concatenate(rows) if rows else np.zeros(0, dtype=CLOCK))


def _blocks(directory: Path, table: str, rank: int) -> Iterator[np.ndarray]:
    """The good blocks of a shard. Raises TraceError where their rows have other columns than ours."""
    path = shard_path(directory, table, rank)
    for block in read_blocks(path):
        if block.dtype != TABLES[table] or block.ndim != 1:
            raise TraceError(f"{path}: rows of another version of the program; merge them with that version")
        yield block


def _missing_ranks(directory: Path, ranks: int) -> list[int]:
    seen = {rank for table in TABLES for rank in shard_ranks(directory, table)}
    return sorted(set(range(ranks)) - seen)


def _scan_all(directory: Path) -> dict[Path, Scan]:
    """Every shard, its checksums verified."""
    paths = [shard_path(directory, table, rank) for table in TABLES for rank in shard_ranks(directory, table)]
    return {path: scan(path, verify=True) for path in paths}


def _missing_rows(directory: Path, scans: dict[Path, Scan]) -> dict[int, int]:
    """By rank: the rows that it says it recorded, less those that its shards hold. Only where some are missing."""
    gone: dict[int, int] = {}
    for rank in shard_ranks(directory, "ranks"):
        said = max((int(b["rows_written"].max()) for b in _blocks(directory, "ranks", rank)), default=-1)
        paths = [shard_path(directory, table, rank) for table in TABLES if table != "ranks"]
        held = sum(scans[path].rows for path in paths if path in scans)
        if said > held:
            gone[rank] = said - held
    return gone


def _make_table(file: h5py.File, directory: Path, table: str, scans: dict[Path, Scan]) -> int:
    """An empty table for every rank's rows, and how many these are."""
    rows = sum(scans[shard_path(directory, table, rank)].rows for rank in shard_ranks(directory, table))
    file.create_dataset(table, shape=(rows,), dtype=SCHEMA[table].stored_dtype)
    if table == "messages":
        file.create_dataset("raw/messages", (rows,), _RAW_TIMES)
    return rows


def _fill_table(file: h5py.File, directory: Path, table: str, clocks: Clocks) -> None:
    """Every rank's blocks, one rank after the other. Own times are corrected; the raw ones of messages go to /raw."""
    data = file[table]
    raw = file["raw/messages"] if table == "messages" else None
    begin = 0
    for rank in shard_ranks(directory, table):
        for block in _blocks(directory, table, rank):
            end = begin + block.size
            if raw is not None:
                own_times = block[list(MESSAGE_TIMES)].astype(_RAW_TIMES)
                correct(table, block, clocks.of(rank))
                data[begin:end] = block  # before the raw times: so it lies before them in the file
                raw[begin:end] = own_times
            else:
                if table in OWN_TIMES:
                    correct(table, block, clocks.of(rank))
                data[begin:end] = block
            begin = end


def _final(file: h5py.File, directory: Path, damaged: list[str]) -> None:
    """The final vectors, as far as there are some. What is damaged is left out, and added to the list."""
    for name in FINAL:
        path = _final_path(directory, name)
        if not path.exists():
            continue
        if (vector := next(read_blocks(path), None)) is None:
            damaged.append(f"{path.name}: the vector has a wrong checksum")
            continue
        group = file.require_group("final")
        group[name] = vector
        group.attrs[f"{name}_digest"] = digest(vector)


def digest(vector: np.ndarray) -> str:
    """SHA-256 of a vector's bytes, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(vector).tobytes()).hexdigest()
