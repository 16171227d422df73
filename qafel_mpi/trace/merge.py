"""Shards -> one HDF5 file. Works on a finished run and on what a killed one left."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qafel_mpi.trace.clock import corrected, with_drift
from qafel_mpi.trace.shards import TraceError, read_blocks, shard_path, shard_ranks, torn_bytes
from qafel_mpi.trace_schema import CLOCK, MESSAGE_TIMES, SCHEMA_VERSION, TABLES

RUN_FILE = "run.json"
FINAL_FILE = "final.npz"
SUFFIX = ".shards"


@dataclass(frozen=True)
class Merged:
    """What a merge made."""

    path: Path
    rows: dict[str, int]
    outcome: str
    lost: dict[str, int] = field(default_factory=dict)  # shard -> torn bytes


def shards_of(out: Path) -> Path:
    """The folder of shards that belongs to a trace file: runs/a.h5 -> runs/a.shards."""
    return out.with_suffix(SUFFIX)


def write_run(directory: Path, attributes: dict[str, Any]) -> None:
    """Write or replace the run's attributes, atomically."""
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / (RUN_FILE + ".part")
    temporary.write_text(json.dumps(attributes, indent=1), encoding="utf-8")
    os.replace(temporary, directory / RUN_FILE)


def write_final(directory: Path, **vectors: np.ndarray) -> None:
    """Keep the final vectors (x, x_hat) beside the shards."""
    np.savez(directory / FINAL_FILE, **vectors)  # type: ignore[arg-type]


def merge(directory: Path, out: Path | None = None, *, remove: bool = False) -> Merged:
    """Make the trace file from a folder of shards, in blocks: memory does not grow with the run.

    out: default NAME.h5 beside NAME.shards. remove: delete the shards when the file is complete. The file
    appears under its name only when it is whole. Raises TraceError naming what is missing.
    """
    if not directory.is_dir():
        raise TraceError(f"{directory}: no such folder; give the folder of shards of a run, NAME{SUFFIX}")
    if out is None:
        if directory.suffix != SUFFIX:
            raise TraceError(f"{directory}: not a folder of shards (NAME{SUFFIX})")
        out = directory.with_suffix(".h5")
    attributes = _attributes(directory)
    temporary = out.with_name(out.name + ".part")
    rows: dict[str, int] = {}
    lost: dict[str, int] = {}
    try:
        with h5py.File(temporary, "w") as file:
            clock = _clock(directory)
            origin_s = float(attributes.get("origin_s", 0.0))
            for table in TABLES:
                rows[table] = _merge_table(file, directory, table, clock, origin_s, lost)
            _final(file, directory)
            for name, value in attributes.items():
                file.attrs[name] = json.dumps(value) if isinstance(value, dict | list) else value
            file.attrs["schema_version"] = SCHEMA_VERSION
            file.attrs["rows"] = json.dumps(rows)
            if lost:
                file.attrs["lost_bytes"] = json.dumps(lost)
        os.replace(temporary, out)
    except OSError as error:
        raise TraceError(f"{out}: {error}; the shards in {directory} are kept") from error
    if remove:
        shutil.rmtree(directory)
    return Merged(out, rows, str(attributes["outcome"]), lost)


def _attributes(directory: Path) -> dict[str, Any]:
    path = directory / RUN_FILE
    try:
        attributes: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not any(directory.glob("*.npys")):
            raise TraceError(f"{directory}: neither {RUN_FILE} nor shards: not a run's folder") from None
        attributes = {}
    except ValueError as error:
        raise TraceError(f"{path}: not JSON ({error})") from error
    attributes.setdefault("outcome", "failed: the run ended without a result; merged from its shards")
    return attributes


def _clock(directory: Path) -> np.ndarray:
    rows = [
        b for r in shard_ranks(directory, "clock") for b in read_blocks(shard_path(directory, "clock", r))
    ]
    return with_drift(np.concatenate(rows) if rows else np.zeros(0, dtype=CLOCK))


def _merge_table(
    file: h5py.File, directory: Path, table: str, clock: np.ndarray, origin_s: float, lost: dict[str, int]
) -> int:
    """Append every rank's blocks. Messages' times are corrected; the raw ones are kept in /raw."""
    dtype = TABLES[table]
    data = file.create_dataset(table, shape=(0,), maxshape=(None,), dtype=dtype, chunks=(4096,))
    raw = None
    if table == "messages":
        times = np.dtype([(name, "<f8") for name in MESSAGE_TIMES])
        raw = file.create_dataset("raw/messages", shape=(0,), maxshape=(None,), dtype=times, chunks=(4096,))
    if table == "clock":
        data.resize((clock.size,))
        data[:] = clock
        return int(clock.size)
    for rank in shard_ranks(directory, table):
        path = shard_path(directory, table, rank)
        if missing := torn_bytes(path):
            lost[path.name] = missing
        readings = clock[clock["rank"] == rank]
        for block in read_blocks(path):
            if block.dtype != dtype:
                raise TraceError(f"{path}: rows of another version of the program; merge it with that one")
            if raw is not None:
                _append(raw, block[list(MESSAGE_TIMES)].astype(raw.dtype))
                for name in MESSAGE_TIMES:
                    block[name] = corrected(block[name], readings, origin_s)
            _append(data, block)
    return int(data.shape[0])


def _append(data: h5py.Dataset, rows: np.ndarray) -> None:
    begin = data.shape[0]
    data.resize((begin + rows.size,))
    data[begin:] = rows


def _final(file: h5py.File, directory: Path) -> None:
    path = directory / FINAL_FILE
    if not path.exists():
        return
    group = file.create_group("final")
    with np.load(path, allow_pickle=False) as vectors:
        for name in vectors.files:
            group[name] = vectors[name]
            group.attrs[f"{name}_digest"] = digest(vectors[name])


def digest(vector: np.ndarray) -> str:
    """SHA-256 of a vector's bytes, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(vector).tobytes()).hexdigest()
