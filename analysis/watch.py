"""A run that goes on, seen from its shards: how far it is, how fast, and how long it may still take."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from qafel_analysis.read.rows import Target, plain

from qafel_mpi.trace.reader import Trace, TraceError, follow, open_trace
from qafel_mpi.trace_schema import FAULT_NAMES, HEADER_BYTES, KIND_NAMES, TABLES, taken

SCHEMA_VERSION = 1  # of `watch --json`
WINDOW_S = 30.0  # rates are those of so long
_EVALUATIONS = 1000  # that are kept
_FITTED_SHARE = 0.25  # of the uploads so far: what came to pass in the last of them goes on
_RECEIVER = 1
_UPDATE = next(kind for kind, name in KIND_NAMES.items() if name == "update")


@dataclass(frozen=True)
class RankProgress:
    """What rank 0 has received from a rank. silent_s: since the last of it, nan where there was none."""

    rank: int
    uploads: int
    uploads_per_second: float
    silent_s: float


@dataclass(frozen=True)
class TimeLeft:
    """seconds until `what`; at_most: a budget that ends the run, not a target that it heads for."""

    what: str
    seconds: float
    at_most: bool


@dataclass(frozen=True)
class Progress:
    """Where a run stands. ranks: the slowest first. outcome: None while it goes on."""

    run: str
    outcome: str | None
    elapsed_s: float
    uploads: int = 0
    server_steps: int = 0
    accuracy: float = float("nan")
    loss: float = float("nan")
    payload_bytes_up: int = 0
    payload_bytes_down: int = 0
    wire_bytes: int = 0
    mean_staleness: float = float("nan")
    dropped_messages: int = 0
    faults: dict[str, int] = field(default_factory=dict)  # by kind, of those that there were
    resident_bytes: int | None = None  # rank 0's memory
    uploads_per_second: float = float("nan")
    payload_bytes_per_second: float = float("nan")
    virtual_seconds: float | None = None
    ranks: tuple[RankProgress, ...] = ()
    left: tuple[TimeLeft, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Not known is null. qafel_mpi/schemas/watch.json describes it."""
        found = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        for row in (found, *found["ranks"], *found["left"]):
            row |= {key: plain(value) for key, value in row.items()}
        return found


def newest(directory: Path, but: Container[Path] = ()) -> Path:
    """The folder itself where it is a run's shards, else the folder of shards below it that was written to last.

    RUN.h5 stands for the shards of the run that is to become it. A run that has ended has no shards any more: then
    the name is enough, if the trace stands in their place. but: folders that do not count. Raises TraceError where
    there is none.
    """
    if directory.suffix == ".h5" and directory.with_suffix(".shards").is_dir():
        directory = directory.with_suffix(".shards")
    if directory.suffix == ".shards" and directory.with_suffix(".h5").is_file():
        return directory
    if directory.is_file():
        raise TraceError(
            f"{directory}: a file, so that run has ended; `qafel-analysis table {directory}` shows it"
        )
    if not directory.is_dir():
        raise TraceError(
            f"{directory}: no such folder; give a run's shards (RUN.shards) or a folder above them"
        )
    if directory.suffix == ".shards" or any(directory.glob("*.npys")):
        return directory
    found = [path for path in directory.rglob("*.shards") if path.is_dir() and path not in but]
    if not found:
        raise TraceError(f"{directory}: no run is in progress here (it contains no folder RUN.shards)")
    return max(found, key=_changed)


def _changed(folder: Path) -> float:
    try:
        return max((path.stat().st_mtime for path in folder.iterdir()), default=folder.stat().st_mtime)
    except FileNotFoundError:  # it is being merged
        return 0.0


@dataclass
class Follower:
    """Reads what is new at each poll; keeps counts, not rows."""

    directory: Path
    uploads: int = 0
    staleness: int = 0
    dropped: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    resident_bytes: int | None = None
    last_step: np.void | None = None
    by_rank: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    heard_s: np.ndarray = field(default_factory=lambda: np.zeros(0))
    evaluations: deque[tuple[float, float, float]] = field(
        default_factory=lambda: deque(maxlen=_EVALUATIONS)
    )  # uploads, accuracy, loss
    _ends: dict[str, dict[int, int]] = field(default_factory=dict)
    _samples: deque[tuple[float, int, int]] = field(default_factory=deque)  # elapsed, uploads, payload bytes
    _recent: deque[np.ndarray] = field(default_factory=deque)  # (arrival, rank) of the last messages

    def poll(self) -> Progress:
        """Raises TraceError where the shards are gone and there is no trace in their place."""
        merged = self.directory.with_suffix(".h5")
        if not self.directory.is_dir() and merged.is_file():
            return self._ended(merged)
        try:
            trace = follow(self.directory)
            self._read(trace)
        except (FileNotFoundError, TraceError):
            if not self.directory.is_dir() and merged.is_file():  # it was merged while we read
                return self._ended(merged)
            raise
        return self._progress(trace)

    def _new(self, trace: Any, table: str, only: int | None = 0) -> Any:
        return trace.new_blocks(table, self._ends.setdefault(table, {}), only=only)

    def _read(self, trace: Any) -> None:
        for block in self._new(trace, "messages"):
            self.dropped += int(block["dropped"].sum())
            updates = block[
                (block["end"] == _RECEIVER) & (block["kind"] == _UPDATE) & (block["dropped"] == 0)
            ]
            updates = updates[(updates["src"] > 0) & (updates["src"] < int(trace.attributes.get("ranks", 0)))]
            self._heard(updates["src"].astype(np.int64), updates["t_complete"])
        for block in map(taken, self._new(trace, "updates")):
            self.uploads += len(block)
            self.staleness += int(block["staleness"].sum())
        for block in self._new(trace, "faults", only=None):  # few or none
            self.faults.update(_kinds(block))
        for block in self._new(trace, "memory"):
            self.resident_bytes = int(block["resident_bytes"][-1]) if len(block) else self.resident_bytes
        wall = trace.attributes.get("driver") != "virtual"
        for block in self._new(trace, "steps"):
            evaluated = block[~np.isnan(block["loss"]) | ~np.isnan(block["accuracy"])]
            self.evaluations.extend(
                zip(*(evaluated[n].tolist() for n in ("uploads", "accuracy", "loss")), strict=True)
            )
            for row in (
                block[block["time_s"] >= block["time_s"][-1] - WINDOW_S] if wall and len(block) else ()
            ):
                self._samples.append((float(row["time_s"]), int(row["uploads"]), _payload(row)))
            self.last_step = block[-1] if len(block) else self.last_step
        if not wall and self.last_step is not None:
            self._samples.append((_since(trace), self.uploads, _payload(self.last_step)))
        while len(self._samples) > 2 and self._samples[0][0] < self._samples[-1][0] - WINDOW_S:
            self._samples.popleft()

    def _heard(self, ranks: np.ndarray, at_s: np.ndarray) -> None:
        if not len(ranks):
            return
        grown = int(ranks.max()) + 1 - len(self.by_rank)
        if grown > 0:
            self.by_rank = np.concatenate([self.by_rank, np.zeros(grown, np.int64)])
            self.heard_s = np.concatenate([self.heard_s, np.full(grown, np.nan)])
        self.by_rank += np.bincount(ranks, minlength=len(self.by_rank))
        np.fmax.at(self.heard_s, ranks, at_s)
        self._recent.append(np.column_stack([at_s, ranks]))
        while len(self._recent) > 1 and np.nanmax(self._recent[0][:, 0]) < np.nanmax(self.heard_s) - WINDOW_S:
            self._recent.popleft()

    def _progress(self, trace: Trace) -> Progress:
        attributes, step = trace.attributes, self.last_step
        virtual = attributes.get("driver") == "virtual"
        outcome = attributes.get("outcome")
        newest_s = [t for t in (_time(step), float(np.nanmax(self.heard_s, initial=0.0))) if not np.isnan(t)]
        elapsed_s = _since(trace) if virtual else max(newest_s)
        elapsed_s = float(attributes.get("seconds", elapsed_s))  # is there once the run has ended
        known: dict[str, Any] = {} if step is None else _of_step(step)
        accuracy, loss = self.evaluations[-1][1:] if self.evaluations else (float("nan"),) * 2
        uploads_rate, bytes_rate = self._rates()
        found = Progress(
            run=str(self.directory),
            outcome=None if outcome == "not finished" else str(outcome),
            elapsed_s=elapsed_s,
            uploads=self.uploads,
            accuracy=accuracy,
            loss=loss,
            mean_staleness=self.staleness / self.uploads if self.uploads else float("nan"),
            dropped_messages=self.dropped,
            faults=dict(self.faults),
            resident_bytes=self.resident_bytes,
            uploads_per_second=uploads_rate,
            payload_bytes_per_second=bytes_rate,
            virtual_seconds=_time(step) if virtual else None,
            ranks=self._ranks(int(attributes.get("ranks", 0))),
            **known,
        )
        stop = trace.experiment.get("stop", {})
        left = (*budgets(found, stop), *targets(found, self.evaluations, Target.of(trace)))
        return replace(found, left=tuple(sorted(left, key=lambda one: one.seconds)))

    def _rates(self) -> tuple[float, float]:
        if len(self._samples) < 2 or self._samples[-1][0] <= self._samples[0][0]:
            return float("nan"), float("nan")
        (t0, u0, b0), (t1, u1, b1) = self._samples[0], self._samples[-1]
        return (u1 - u0) / (t1 - t0), (b1 - b0) / (t1 - t0)

    def _ranks(self, count: int) -> tuple[RankProgress, ...]:
        if not len(self.by_rank):
            return ()
        size = max(count, len(self.by_rank))
        uploads = np.pad(self.by_rank, (0, size - len(self.by_rank)))
        heard_s = np.pad(self.heard_s, (0, size - len(self.heard_s)), constant_values=np.nan)
        recent = np.concatenate(list(self._recent))
        now_s = float(np.nanmax(heard_s))
        recent = recent[recent[:, 0] >= now_s - WINDOW_S]
        length_s = now_s - max(0.0, now_s - WINDOW_S)
        rates = (
            np.bincount(recent[:, 1].astype(int), minlength=size) / length_s if length_s else np.zeros(size)
        )
        found = [
            RankProgress(r, int(uploads[r]), float(rates[r]), float(now_s - heard_s[r]))
            for r in range(1, size)
        ]
        return tuple(sorted(found, key=lambda r: (r.uploads_per_second, r.rank)))

    def _ended(self, merged: Path) -> Progress:
        with open_trace(merged, salvage=True) as trace:
            a = trace.attributes
            keys = ("uploads", "server_steps", "accuracy", "loss", "payload_bytes_up", "payload_bytes_down")
            return Progress(
                run=str(merged),
                outcome=str(a.get("outcome", "not known")),
                elapsed_s=float(a.get("seconds", np.nan)),
                wire_bytes=a.get("wire_bytes_up", 0) + a.get("wire_bytes_down", 0),
                dropped_messages=a.get("dropped_messages", 0),
                faults=dict(Counter(_kinds(_rows(trace, "faults")))),
                resident_bytes=next(iter(_rows(trace, "memory")["resident_bytes"][-1:].tolist()), None),
                virtual_seconds=a.get("virtual_seconds") or None,
                **{key: a[key] for key in keys if key in a},
            )


def _kinds(faults: np.ndarray) -> list[str]:
    return [FAULT_NAMES.get(number, f"kind {number}") for number in faults["kind"].tolist()]


def _rows(trace: Trace, table: str) -> np.ndarray:
    """A small table of a trace; none where an older one has no such table."""
    try:
        return trace.table(table)
    except TraceError:
        return np.zeros(0, TABLES[table])


def _payload(step: np.void) -> int:
    return int(step["payload_bytes_up"] + step["payload_bytes_down"])


def _time(step: np.void | None) -> float:
    return float("nan") if step is None else float(step["time_s"])


def _of_step(step: np.void) -> dict[str, int]:
    up, down = int(step["payload_bytes_up"]), int(step["payload_bytes_down"])
    down_messages = int(step["messages_down"] if step["messages_down"] >= 0 else step["version"])
    messages = int(step["uploads"]) + down_messages
    return {
        "server_steps": int(step["version"]),
        "payload_bytes_up": up,
        "payload_bytes_down": down,
        "wire_bytes": up + down + HEADER_BYTES * messages,
    }


def _since(trace: Trace) -> float:
    """Seconds since the run began, by this machine's clock and the run's own date."""
    try:
        started = datetime.fromisoformat(str(trace.attributes["started"])).astimezone(UTC)
    except (KeyError, ValueError):
        return float("nan")
    return max(0.0, time.time() - started.timestamp())


def budgets(now: Progress, stop: dict[str, Any]) -> list[TimeLeft]:
    """When the budgets of the experiment will have been used up at the present rates."""
    found = []
    per_step = now.uploads / now.server_steps if now.server_steps else float("nan")
    virtual_rate = (now.virtual_seconds or float("nan")) / now.elapsed_s if now.elapsed_s else float("nan")
    counted = (
        ("uploads", now.uploads, now.uploads_per_second),
        ("steps", now.server_steps, now.uploads_per_second / per_step),
        ("seconds", now.elapsed_s, 1.0),
        ("virtual_seconds", now.virtual_seconds or 0.0, virtual_rate),
    )
    for name, used, rate in counted:
        if (limit := stop.get(name)) is not None and rate > 0:
            found.append(
                TimeLeft(f"{name.replace('_', ' ')} {limit:,g}", max(0.0, limit - used) / rate, True)
            )
    return found


def targets(
    now: Progress, evaluations: Iterable[tuple[float, float, float]], target: Target
) -> list[TimeLeft]:
    """When accuracy and loss will be at the target if they go on as in the last quarter of the uploads.

    A straight line through the evaluations (uploads, accuracy, loss): too early where the curve flattens.
    """
    found = []
    for name, column, aim in (("accuracy", 1, target.accuracy), ("loss", 2, target.loss)):
        rows = np.array([(e[0], e[column]) for e in evaluations if np.isfinite(e[column])]).reshape(-1, 2)
        rows = rows[rows[:, 0] >= (1 - _FITTED_SHARE) * now.uploads]
        if aim is None or len(rows) < 3 or not now.uploads_per_second > 0 or np.ptp(rows[:, 0]) == 0:
            continue
        slope, start = np.polyfit(rows[:, 0], rows[:, 1], 1)
        if (slope > 0) == (name == "accuracy") and slope != 0:
            uploads = (aim - start) / slope - now.uploads
            found.append(
                TimeLeft(f"{name} {aim:g}", max(0.0, float(uploads)) / now.uploads_per_second, False)
            )
    return found
